"""The hops around a lane: admit, route, dispatch. Each gives back what it took on every way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backends.signature import Signature
from gateway.core.admission import Admission, AdmissionLimits
from gateway.core.call import Call, Promise
from gateway.core.servables import ServableState, ServableTable, ServableVersion
from gateway.errors import CallCancelled, ErrorCode, HeadraceError
from gateway.messages import ModelStatus, Prediction, PredictRequest, RoutedRequest
from gateway.pipeline.admit import Admit
from gateway.pipeline.dispatch import Dispatch
from gateway.pipeline.route import Route
from tests.unit.pipeline.lane_world import NEVER_INLINE_S, World
from tests.unit.pipeline.requests import X, Y, doubled, model, request, rows_of

PREDICTION = Prediction(model(), [])


class Later(Promise[Prediction]):
    """An answer that the test gives."""

    __slots__ = ("error", "result", "settled", "waiter")

    def __init__(self) -> None:
        self.result: Prediction | None = None
        self.error: BaseException | None = None
        self.waiter: Callable[[], None] | None = None
        self.settled = False


class Asked(Call[Prediction]):
    """A call through some hops; keeps how it ended."""

    def __init__(self, coroutine: Any) -> None:
        super().__init__()
        self.endings: list[Prediction | BaseException | None] = []
        self.start(coroutine)

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        self.endings.append(error or result)


# -- admit ----------------------------------------------------------------------------------------


class Gate:
    """Admission in front of a hop that waits."""

    def __init__(self, max_requests: int = 2) -> None:
        self.admission = Admission(AdmissionLimits(max_requests=max_requests))
        self.answers: list[Later] = []

        async def hop(asked: PredictRequest) -> Prediction:
            self.answers.append(Later())
            return await self.answers[-1]

        self.admit = Admit(self.admission, hop)

    def ask(self, **fields: Any) -> Asked:
        return Asked(self.admit(request(rows_of(1), **fields)))

    @property
    def inside(self) -> tuple[int, int]:
        return self.admission.requests_inside, self.admission.bytes_inside


def test_a_request_takes_its_room_and_gives_it_back() -> None:
    gate = Gate()
    one = gate.ask(size_bytes=100)
    assert gate.inside == (1, 100)
    gate.answers[0].settle(PREDICTION)
    assert one.endings == [PREDICTION]
    assert gate.inside == (0, 0)


@pytest.mark.parametrize("ending", ["error", "cancelled"])
def test_room_is_given_back_on_every_way_out(ending: str) -> None:
    gate = Gate()
    one = gate.ask(size_bytes=100)
    if ending == "error":
        gate.answers[0].settle(None, HeadraceError(ErrorCode.INTERNAL, "broken"))
    else:
        one.cancel()
    assert len(one.endings) == 1
    assert gate.inside == (0, 0)


def test_a_full_process_says_no_at_once() -> None:
    gate = Gate(max_requests=1)
    gate.ask()
    refused = gate.ask()
    [error] = refused.endings
    assert isinstance(error, HeadraceError)
    assert (error.code, error.retry_after_s) == (ErrorCode.OVERLOADED, 1.0)
    assert len(gate.answers) == 1
    assert gate.inside == (1, 8)


# -- route ----------------------------------------------------------------------------------------


def version(number: str = "1", run: Any = doubled) -> ServableVersion:
    return ServableVersion("m", number, Signature((X,), (Y,)), run, max_batch_size=64)


def test_a_request_is_routed_to_the_version_it_asked_for() -> None:
    versions = [version("1"), version("2")]
    table = ServableTable(versions, [])
    routed: list[RoutedRequest] = []

    async def hop(one: RoutedRequest) -> Prediction:
        routed.append(one)
        return PREDICTION

    route = Route(table, hop)
    asked = request(rows_of(1), version="1")
    assert Asked(route(asked)).endings == [PREDICTION]
    Asked(route(request(rows_of(1), version="")))
    assert [one.servable for one in routed] == versions
    assert routed[0].request is asked


def test_what_cannot_be_routed_goes_no_further() -> None:
    async def hop(one: RoutedRequest) -> Prediction:
        raise AssertionError("not reached")

    table = ServableTable([version()], [ModelStatus("m", "1", "READY", "")])
    with pytest.raises(HeadraceError) as raised:
        Route(table, hop)(request(rows_of(1), model="n"))
    assert raised.value.code is ErrorCode.NOT_FOUND


# -- dispatch -------------------------------------------------------------------------------------


class Served:
    """One version with its lane."""

    def __init__(self, **limits: Any) -> None:
        self.version = version()
        self.world = World(servable=self.version, inline_limit_s=NEVER_INLINE_S, **limits)  # type: ignore[arg-type]
        self.drained: list[object] = []
        self.dispatch = Dispatch({self.version: self.world.lane}, self.drained.append)

    def ask(self, value: float) -> Asked:
        return Asked(self.dispatch(RoutedRequest(request(rows_of(value)), self.version)))


def test_a_dispatched_request_holds_its_version_until_it_is_answered() -> None:
    served = Served()
    one = served.ask(1)
    assert served.version.handles == 1
    served.world.loop.turn()
    served.world.worker.finish()
    [prediction] = one.endings
    assert isinstance(prediction, Prediction)
    assert prediction.outputs[0].tolist() == [[2, 3]]
    assert prediction.servable is served.version
    assert served.version.handles == 0


def test_a_refused_request_lets_go_of_its_version() -> None:
    served = Served(max_queue_requests=1)
    served.ask(1)
    [error] = served.ask(2).endings
    assert isinstance(error, HeadraceError)
    assert error.code is ErrorCode.OVERLOADED
    assert served.version.handles == 1


def test_a_version_that_leaves_is_not_asked() -> None:
    served = Served()
    served.version.retire()
    [error] = served.ask(1).endings
    assert isinstance(error, HeadraceError)
    assert error.code is ErrorCode.NOT_READY
    assert served.world.lane.queue.idle


@pytest.mark.parametrize("running", [False, True])
def test_a_caller_that_goes_away_withdraws_its_request(running: bool) -> None:
    served = Served()
    gone, stays = served.ask(1), served.ask(2)
    if running:
        served.world.loop.turn()
    gone.cancel()
    assert isinstance(gone.endings[0], CallCancelled)
    assert served.version.handles == 1
    assert served.world.meters.shed_reasons == {"cancelled": 1}
    served.world.loop.turn()
    served.world.worker.finish()
    assert len(gone.endings) == 1
    assert isinstance(stays.endings[0], Prediction)
    assert served.version.handles == 0


def test_the_last_answer_of_a_version_that_leaves_unloads_it() -> None:
    served = Served()
    one = served.ask(1)
    served.version.retire()
    served.world.loop.turn()
    served.world.worker.finish()
    assert isinstance(one.endings[0], Prediction)
    assert served.version.state is ServableState.UNLOADED
    assert served.drained == [served.version]
