"""Which arm of a model's plan a request belongs to.

Decides by the plan's split alone, so that every process gives the same key the same answer. It must never read a store
or a clock, nor load anything: an arm whose version is not here is answered by the champion, marked so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from gateway.core.arm_counts import StretchTallies, Tally
from gateway.core.sticky_keys import (
    StickyKey,
    bytes_of_text,
    key_in_header,
    key_in_input,
    key_in_parameter,
)
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import Assignment, ContextValue, PredictRequest
from rollout.comparison_plan import slice_sources
from rollout.plan import UNDER_WAY, Plan, State
from rollout.split import Splitter, ppm_of_percent, sampler

if TYPE_CHECKING:
    from gateway.ports import ContextNames, CountedServable

ARM_HEADER = "x-headrace-arm"
TOKEN_HEADER = "x-headrace-token"  # noqa: S105  the header's name, not a token
_REQUEST_ID = "request_id"
_CHANCE = "none"
_KEYLESS_BYTES = 8
SEEN_KEYS = 1 << 17
_SEEN_MASK = SEEN_KEYS - 1
"""Places for distinct keys, by hash; who comes to one that is taken is not counted again."""

MayChoose = Callable[[str], None]
"""Raises ``HeadraceError`` unless the holder of this token (empty: none came along) may choose an arm."""


class WantedNames(msgspec.Struct, frozen=True):
    """What codecs read of requests to a model with a plan; fills the port ``ContextNames``."""

    parameters: tuple[str, ...]
    headers: tuple[str, ...]

    def places(self, names: ContextNames) -> tuple[int, ...]:
        """Where the values of ``names``, which are among these, stand in a request's context."""
        offset = len(self.parameters)
        return (
            *(self.parameters.index(one) for one in names.parameters),
            *(offset + self.headers.index(one) for one in names.headers),
        )


def wanted_names(plan: Plan, enrichments: Sequence[ContextNames | None]) -> WantedNames:
    """All that any version of the plan wants of a request, and the plan itself."""
    kind, _, name = plan.sticky.source.partition(":")
    parameters: dict[str, None] = {}
    headers: dict[str, None] = {}
    for one in enrichments:
        if one is not None:
            parameters.update(dict.fromkeys(one.parameters))
            headers.update(dict.fromkeys(one.headers))
    if kind == "parameter":
        parameters[name] = None
    elif kind == "header":
        headers[name.lower()] = None
    for kind, name in slice_sources(plan.slices):
        if kind == "parameter":
            parameters[name] = None
        elif kind == "header":
            headers[name.lower()] = None
    headers.update({ARM_HEADER: None, TOKEN_HEADER: None})
    return WantedNames(tuple(parameters), tuple(headers))


class Watch(Protocol):
    """Who looks at a version's outputs, batch by batch."""

    @property
    def odd_batches(self) -> int:
        """Another number after every batch whose outputs were not all finite, or may not have been."""
        ...

    def is_valid(self, outputs: Sequence[Any]) -> bool:
        """Whether one request's outputs are all finite."""
        ...


class Arm:
    """One way that requests can go: a servable, why, and where that is counted."""

    __slots__ = (
        "assignment",
        "context_places",
        "requests",
        "servable",
        "stood_in",
        "tally",
        "watch",
    )

    def __init__(
        self,
        assignment: Assignment,
        servable: CountedServable,
        tally: Tally,
        context_places: tuple[int, ...] | None,
        watch: Watch,
    ) -> None:
        self.assignment = assignment
        self.stood_in = {
            source: msgspec.structs.replace(
                assignment, assigned_by=assignment.assigned_by or source
            )
            for source in (_REQUEST_ID, _CHANCE)
        }
        """The assignment of requests without the key that the plan wants, by what stood in for it."""
        self.servable = servable
        self.watch = watch
        self.tally = tally
        self.context_places = context_places
        """Which values of a request's context are the enrichment's of this servable; None without one."""
        self.requests = 0


Choice: TypeAlias = tuple[Arm, Assignment, tuple[str, ...]]
"""(arm, the arm's assignment for this sort of key, shadows) of one request; shadows are versions that see a copy."""


class ModelArms:
    """A plan in force on one model in one process. It never changes: another plan, or other versions, make another."""

    def __init__(
        self,
        plan: Plan,
        servables: Mapping[str, CountedServable],
        tallies: StretchTallies,
        watches: Mapping[Any, Watch],
        *,
        random_bits: Callable[[int], int],
        may_choose: MayChoose,
        meters: ArmMeters | None = None,
        keys_seen: KeysSeen | None = None,
    ) -> None:
        """``servables``: the loaded versions of the model that can stand for each other, the answering one among them;
        every one of them has its place in ``watches``.
        """
        self.plan = plan
        self.slo_s = plan.slo_ms * 1e-3
        self.meters = meters or ArmMeters()
        self.names = wanted_names(plan, [one.enrichment for one in servables.values()])
        keys_seen = keys_seen or KeysSeen(len(plan.arms))
        self._seen, self._seen_by_arm = keys_seen.places, keys_seen.by_arm
        self._random_bits = random_bits
        self._may_choose = may_choose
        self._watches = watches
        self._splitter = Splitter(plan.shares(), plan.sticky.salt)
        self._arms: list[Arm] = []
        self._overrides: dict[str, Arm] = {}
        self._context_length = len(self.names.parameters) + len(self.names.headers)
        offset = len(self.names.parameters)
        self._arm_place = offset + self.names.headers.index(ARM_HEADER)
        self._token_place = offset + self.names.headers.index(TOKEN_HEADER)
        self._find = self._find_key(servables[plan.answering])
        self._is_key_id = plan.sticky.source == _REQUEST_ID
        self._shadows = _shadows_of(plan, servables)
        self._answering_places = self._places(servables[plan.answering])
        for index, version in enumerate(self._splitter.arms):
            self._arms.append(self._make(index, version, servables, tallies))
        for version, servable in servables.items():
            self._overrides[version] = self._override(version, servable)
        self.meters.begin([*self._arms, *self._overrides.values()])

    def _find_key(self, target: CountedServable) -> StickyKey | None:
        """None where the key is the request's id, or an input that the model has not."""
        kind, _, name = self.plan.sticky.source.partition(":")
        if kind == "input":
            index = target.signature.input_index.get(name)
            return None if index is None else key_in_input(index)
        if kind == "header":
            return key_in_header(
                len(self.names.parameters) + self.names.headers.index(name.lower())
            )
        if kind == "parameter":
            return key_in_parameter(self.names.parameters.index(name))
        return None

    def _make(
        self,
        index: int,
        version: str,
        servables: Mapping[str, CountedServable],
        tallies: StretchTallies,
    ) -> Arm:
        plan = self.plan
        arm = arm_of(plan, version)
        servable = servables.get(version)
        tally, why = Tally(), "split"
        if servable is None:
            servable, why = servables[plan.answering], "not_warm"
        elif arm == "candidate":
            tally = tallies.candidate
        elif arm == "champion":
            tally = tallies.champion
        assignment = Assignment(
            revision=plan.revision,
            arm=arm,
            version=servable.version,
            probability=self._splitter.probabilities[index],
            why=why,
            assigned_by="" if why == "split" else why,
        )
        return Arm(assignment, servable, tally, self._places(servable), self._watches[servable])

    def _override(self, version: str, servable: CountedServable) -> Arm:
        assignment = Assignment(
            self.plan.revision, arm_of(self.plan, version), version, 0.0, "override", "override"
        )
        return Arm(assignment, servable, Tally(), self._places(servable), self._watches[servable])

    def _places(self, servable: CountedServable) -> tuple[int, ...] | None:
        enrichment = servable.enrichment
        return None if enrichment is None else self.names.places(enrichment)

    def bypass(self, request: PredictRequest) -> None:
        """A request that names its version takes no part in the split; its context becomes its servable's own."""
        places = self._answering_places
        if (
            places is not None
            and request.version == self.plan.answering
            and len(request.context) == self._context_length
        ):
            context = request.context
            request.context = tuple([context[place] for place in places])

    def choose(self, request: PredictRequest) -> Choice:
        """The arm of a request that names no version, and who sees a copy. Its context becomes its servable's own."""
        context = request.context
        key: bytes | None = None
        stand_in = ""
        chosen: Arm | None = None
        if len(context) == self._context_length:
            if context[self._arm_place] is not None:
                chosen = self._chosen(context)
            if self._find is not None:
                key = self._find(request)
        if key is None:
            if request.request_id:
                key = bytes_of_text(request.request_id)
                if not self._is_key_id:
                    stand_in = _REQUEST_ID
            else:
                key = self._random_bits(_KEYLESS_BYTES * 8).to_bytes(_KEYLESS_BYTES, "big")
                stand_in = _CHANCE
        if chosen is None:
            index = self._splitter.arm_of(key)[0]
            chosen = self._arms[index]
            seen, place = self._seen, hash(key) & _SEEN_MASK
            if not seen[place]:
                seen[place] = 1
                self._seen_by_arm[index] += 1
        chosen.requests += 1
        if chosen.context_places is not None:
            request.context = tuple([context[place] for place in chosen.context_places])
        assignment = chosen.assignment
        if stand_in:
            self.meters.keys_missing[stand_in] += 1
            assignment = chosen.stood_in[stand_in]
        if self._shadows and assignment.why != "override":
            shadows = tuple([version for version, is_sampled in self._shadows if is_sampled(key)])
            return chosen, assignment, shadows
        return chosen, assignment, ()

    def _chosen(self, context: tuple[ContextValue, ...]) -> Arm:
        wanted, token = context[self._arm_place], context[self._token_place]
        self._may_choose(token if isinstance(token, str) else "")
        found = self._overrides.get(str(wanted))
        if found is None:
            raise HeadraceError(
                ErrorCode.NOT_FOUND,
                f"{ARM_HEADER}: version '{str(wanted)[:80]}' of model '{self.plan.model}' is not loaded "
                f"here; loaded: {', '.join(self._overrides)}",
            )
        return found


class ArmMeters:
    """What is counted of one model's requests, whatever plan is in force."""

    __slots__ = ("_arms", "_earlier", "keys_missing")

    def __init__(self) -> None:
        self._arms: Sequence[Arm] = ()
        self._earlier: Counter[tuple[str, str, str]] = Counter()
        self.keys_missing: Counter[str] = Counter()
        """Requests without the key that the plan wants, by what stood in for it."""

    def begin(self, arms: Sequence[Arm]) -> None:
        """Requests go these ways from now on; those who are on the old ways have been counted."""
        self._earlier = self.requests
        self._arms = arms

    @property
    def requests(self) -> Counter[tuple[str, str, str]]:
        """By version, arm and why."""
        found = Counter(self._earlier)
        for one in self._arms:
            assignment = one.assignment
            found[assignment.version, assignment.arm, assignment.why] += one.requests
        return found


class KeysSeen:
    """Distinct keys by the arm they were dealt to, for the check of the sample ratio.

    One busy user would raise an alarm that a count of requests cannot tell from a wrong split.
    """

    __slots__ = ("by_arm", "places")

    def __init__(self, arms: int) -> None:
        self.by_arm = [0] * arms
        self.places = bytearray(SEEN_KEYS)


def arm_of(plan: Plan, version: str) -> str:
    """What a version is in a plan."""
    if version == plan.candidate:
        return "candidate"
    return "champion" if version == plan.champion else "other"


def versions_of(plan: Plan) -> frozenset[str]:
    """What has to be loaded for a plan: arms, shadows, and the way back."""
    if plan.state in {State.ROLLED_BACK, State.ABORTED}:
        return frozenset({plan.champion})
    versions = {plan.champion, plan.candidate}
    if plan.state is not State.PROMOTED:
        versions |= {one.version for one in plan.others}
        versions |= {one.version for one in plan.shadows}
    return frozenset(versions - {""})


def _shadows_of(
    plan: Plan, servables: Mapping[str, CountedServable]
) -> tuple[tuple[str, Callable[[bytes], bool]], ...]:
    if plan.state not in UNDER_WAY:
        return ()
    found = [
        (one.version, sampler(one.salt, ppm_of_percent(one.percent)))
        for one in plan.shadows
        if one.version in servables
    ]
    if found and plan.self_copy_percent:
        own_ppm = ppm_of_percent(plan.self_copy_percent)
        found.append((plan.champion, sampler(plan.self_copy_salt, own_ppm)))
    return tuple(found)


def refuse_all(token: str) -> None:
    """``MayChoose`` where nobody may."""
    raise HeadraceError(
        ErrorCode.PERMISSION_DENIED,
        f"{ARM_HEADER} is for holders of an operator's token, and this gateway has none: set rollout.tokens_file",
    )
