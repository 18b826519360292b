"""The route of a model with a plan: what the reply says, and what is counted however a request ends."""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from backends.signature import Signature, Tensor
from gateway.core.arm_counts import StretchTallies
from gateway.core.arms import ModelArms
from gateway.core.call import Call, Promise
from gateway.core.prediction_ids import PredictionIds
from gateway.core.servables import ServableTable, ServableVersion
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import Prediction, RoutedRequest
from gateway.pipeline.output_watch import OutputWatch
from gateway.pipeline.route import RolloutRouting, Route
from rollout.evidence import ArmCounts
from rollout.plan import Plan, Shadow, Step, Sticky
from tests.support.servables import WantedNames
from tests.unit.pipeline.requests import X, Y, doubled, request, rows_of
from tests.unit.rollout.plans import proposal, stepping

NOW_S = 50.0


class Later(Promise[Any]):
    """What the test gives to who waits."""

    __slots__ = ("error", "result", "settled", "waiter")

    def __init__(self) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.waiter: Callable[[], None] | None = None
        self.settled = False


class Asked(Call[Prediction]):
    def __init__(self, coroutine: Any) -> None:
        super().__init__()
        self.endings: list[Any] = []
        self.start(coroutine)

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        self.endings.append(error or result)


def plan_of(percent: float = 50.0, **changed: Any) -> Plan:
    fields = {
        "sticky": Sticky(source="header:x-user", salt="s"),
        "steps": (Step(percent=percent),),
        "slo_ms": 100.0,
    }
    return stepping(proposal(**fields | changed))


class World:
    """Champion 3 and candidate 4 behind a route; ``hop`` says what becomes of a request."""

    def __init__(self, plan: Plan | None = None, **enrichments: WantedNames) -> None:
        self.plan = plan or plan_of()
        self.now_s = NOW_S
        self.routed: list[RoutedRequest] = []
        self.error: BaseException | None = None
        self.parameters: dict[str, Any] | None = None
        self.has_defaults = False
        self.takes_s = 0.0
        self.answer = doubled
        self.versions = {
            number: ServableVersion(
                "delays",
                number,
                Signature((X,), (Y,)),
                lambda inputs: self.answer(inputs),  # noqa: PLW0108  tests change it
                max_batch_size=64,
                enrichment=enrichments.get(f"v{number}"),
            )
            for number in ("3", "4")
        }
        self.table = ServableTable(list(self.versions.values()), [])
        self.table.pin("delays", "3")
        self.tallies = StretchTallies(self.plan.revision, self.plan.step)
        watches = {one: OutputWatch(one.run, one.signature) for one in self.versions.values()}
        for one, watch in watches.items():
            one.run = watch.run
        chance = random.Random(1).getrandbits
        self.arms = ModelArms(
            self.plan,
            self.versions,
            self.tallies,
            watches,
            random_bits=chance,
            may_choose=lambda token: None,
        )
        self.routing = RolloutRouting(lambda: self.now_s, PredictionIds(lambda: 10**18, chance))
        self.routing.arms["delays"] = self.arms
        self.route = Route(self.table, self.hop, self.routing)

    async def hop(self, routed: RoutedRequest) -> Prediction:
        self.routed.append(routed)
        self.now_s += self.takes_s
        routed.has_defaults = self.has_defaults
        if self.error is not None:
            raise self.error
        outputs = routed.servable.run(routed.request.inputs)
        return Prediction(routed.servable, outputs, self.parameters)

    def begin(self, user: str | None = "ann", *values: float, **fields: Any) -> Asked:
        context = tuple({"x-user": user}.get(one) for one in self.arms.names.headers)
        known: dict[str, Any] = {"model": "delays", "context": context, "received_s": self.now_s}
        return Asked(self.route(request(rows_of(*(values or (1.0,))), **known | fields)))

    def ask(self, user: str | None = "ann", *values: float, **fields: Any) -> Any:
        [ending] = self.begin(user, *values, **fields).endings
        return ending

    def user_of(self, version: str) -> str:
        return next(
            user
            for user in (f"u{number}" for number in range(1000))
            if self.ask(user).servable.version == version
        )


def test_a_reply_says_who_answered_and_under_which_id() -> None:
    world = World()
    for version, arm in (("3", "champion"), ("4", "candidate")):
        answer = world.ask(world.user_of(version))
        assert answer.assignment.version == answer.servable.version == version
        assert (answer.assignment.arm, answer.assignment.assigned_by) == (arm, "")
        assert uuid.UUID(answer.prediction_id).version == 7
    ids = [world.ask().prediction_id for _ in range(100)]
    assert len(set(ids)) == 100


@pytest.mark.parametrize(
    ("user", "request_id", "said"), [(None, "r", "request_id"), (None, "", "none")]
)
def test_a_reply_says_what_stood_in_for_the_key(
    user: str | None, request_id: str, said: str
) -> None:
    answer = World().ask(user, request_id=request_id)
    assert answer.assignment.assigned_by == said


def test_a_reply_says_that_the_caller_chose_or_that_the_version_is_not_here() -> None:
    world = World()
    context = tuple({"x-headrace-arm": "4"}.get(one) for one in world.arms.names.headers)
    answer = world.ask(context=context)
    assert (answer.servable.version, answer.assignment.assigned_by) == ("4", "override")
    assert world.tallies.is_empty, "what people try is no evidence"


def test_what_the_model_says_stays_beside_the_marks() -> None:
    world = World()
    world.parameters = {"feature_status": "fresh"}
    assert world.ask().parameters is world.parameters
    assert world.parameters == {"feature_status": "fresh"}, "it may be shared by a batch"


def test_a_request_that_names_its_version_takes_no_part() -> None:
    world = World()
    answer = world.ask(version="4")
    assert answer.servable.version == "4"
    assert answer.assignment is None
    assert answer.parameters is None
    assert answer.prediction_id == ""
    assert world.tallies.is_empty
    assert world.routed[0].assignment is None


def test_contexts_become_those_of_the_servables() -> None:
    plan = plan_of(99.9)
    world = World(plan, v3=WantedNames((), ("x-user",)), v4=WantedNames((), ("x-user", "x-b")))
    user = world.user_of("4")
    context = tuple({"x-user": user, "x-b": "b"}.get(one) for one in world.arms.names.headers)
    world.ask(context=context)
    assert world.routed[-1].request.context == (user, "b")
    world.ask(context=context, version="3")
    assert list(world.routed[-1].request.context) == [user]


def test_another_models_requests_are_left_alone() -> None:
    world = World()
    other = ServableVersion("m", "1", Signature((X,), (Y,)), doubled)
    world.table.put(other)
    answer = world.ask(model="m")
    assert answer.servable is other
    assert answer.parameters is None


# -- what is counted ------------------------------------------------------------------------------


def test_each_outcome_is_counted_for_its_arm() -> None:
    world = World()
    user = world.user_of("4")
    earlier = world.tallies.candidate.counts()
    world.takes_s = 0.1001
    world.ask(user)
    world.takes_s = 0.0999
    world.ask(user)
    world.has_defaults = True
    world.ask(user)
    world.answer = lambda inputs: [np.full((1, 2), math.nan, np.float32)]
    world.ask(user)
    counted = world.tallies.candidate.counts()
    assert counted == earlier.plus(ArmCounts(requests=4, slow=1, defaulted=2, invalid=1))
    assert world.tallies.candidate.recent().failed == 1


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (HeadraceError(ErrorCode.INTERNAL, "x"), ArmCounts(requests=1, errors=1)),
        (HeadraceError(ErrorCode.DEADLINE_EXCEEDED, "x"), ArmCounts(requests=1, errors=1, slow=1)),
        (HeadraceError(ErrorCode.INVALID_ARGUMENT, "x"), ArmCounts()),
        (ValueError("a bug"), ArmCounts(requests=1, errors=1)),
    ],
)
def test_errors_are_counted_and_go_on(error: Exception, counted: ArmCounts) -> None:
    world = World(plan_of(99.9999))
    world.error = error
    assert world.ask() is error
    assert world.tallies.candidate.counts() == counted


def test_a_caller_who_went_away_is_counted_for_nobody() -> None:
    world = World()

    async def hop(routed: RoutedRequest) -> Prediction:
        await Later()
        raise AssertionError("not reached")

    world.route = Route(world.table, hop, world.routing)
    asked = world.begin()
    asked.cancel()
    assert len(asked.endings) == 1
    assert world.tallies.is_empty


def test_who_gives_up_late_has_waited_for_a_version_that_hangs() -> None:
    world = World()

    async def hop(routed: RoutedRequest) -> Prediction:
        await Later()
        raise AssertionError

    world.route = Route(world.table, hop, world.routing)
    asked = world.begin()
    world.now_s += 1.0
    asked.cancel()
    counts = [one.counts() for one in (world.tallies.candidate, world.tallies.champion)]
    assert ArmCounts(requests=1, errors=1, slow=1) in counts


def test_a_request_is_counted_under_the_plan_that_routed_it() -> None:
    """A new revision comes while it is inside: no count is lost, and none goes to the new weights."""
    world = World()
    old = world.tallies
    later = World()

    async def hop(routed: RoutedRequest) -> Prediction:
        world.routing.arms["delays"] = later.arms
        return await world.hop(routed)

    world.route = Route(world.table, hop, world.routing)
    world.ask()
    assert old.candidate.requests + old.champion.requests == 1
    assert later.tallies.is_empty
    world.ask()
    assert later.tallies.candidate.requests + later.tallies.champion.requests == 1


def test_of_requests_in_one_batch_only_the_odd_one_is_invalid() -> None:
    """The watch tells a batch; who was in it is told apart here."""
    world = World(plan_of(99.9999))

    def poisoned(inputs: Sequence[Tensor]) -> list[Tensor]:
        values = np.asarray(inputs[0], np.float32)
        return [np.where(values < 0, np.float32(math.nan), values)]

    world.answer = poisoned
    waiting: list[Later] = []
    inside: list[RoutedRequest] = []

    async def hop(routed: RoutedRequest) -> Prediction:
        inside.append(routed)
        waiting.append(Later())
        outputs = await waiting[-1]
        return Prediction(routed.servable, outputs)

    world.route = Route(world.table, hop, world.routing)
    asked = [world.begin("ann", value) for value in (1.0, -1.0, 2.0, -3.0)]
    [outputs] = inside[0].servable.run([np.concatenate([one.request.inputs[0] for one in inside])])
    for row, one in enumerate(waiting):
        one.settle([outputs[row : row + 1]])
    assert [len(one.endings) for one in asked] == [1] * 4
    assert world.tallies.candidate.counts() == ArmCounts(requests=4, invalid=2)
    assert world.tallies.candidate.recent().failed == 0b0101


# -- shadows --------------------------------------------------------------------------------------


def test_with_shadows_what_the_caller_sent_goes_along() -> None:
    plan = plan_of(shadows=(Shadow(version="4", percent=100, salt="c"),), self_copy_percent=0.0)
    world = World(plan)
    world.ask()
    [routed] = world.routed
    assert routed.shadows == ("4",)
    assert routed.client_inputs is routed.request.inputs
    bare = World()
    bare.ask()
    assert not bare.routed[0].shadows
    assert not bare.routed[0].client_inputs
