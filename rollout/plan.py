"""The plan of one model's rollout: the document that says who answers, what comes next, and what has been.

Decides what a plan is made of, how it is written down, and which weights belong to which state and step. A plan is a
value: nothing here changes one, and a changed one is a new value with the next revision (``rollout.controller``). It
must never judge whether what people wrote makes sense (``rollout.checking``) nor read a clock: every time is in seconds
since 1970 and comes from outside, because a plan outlives the processes that act on it.
"""

from __future__ import annotations

import enum
import math
from typing import TypeVar

import msgspec

from rollout.comparison_plan import PlannedComparison
from rollout.split import WHOLE_PPM, Share, ppm_of_percent, weight_ppm

FORMAT = 1
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_HISTORY_ENTRIES = 50
MAX_REASON_CHARACTERS = 500
NO_STEP = -1
"""The step of a plan in which no weight has moved yet."""


class PlanError(ValueError):
    """Bytes that are no plan; the message says what to change."""


class State(enum.StrEnum):
    """Where a rollout is."""

    DRAFT = "draft"
    SHADOWING = "shadowing"
    STEPPING = "stepping"
    PAUSED = "paused"
    """Somebody stopped it; the weights stay."""
    HOLDING = "holding"
    """It needs a person's decision; the weights stay."""
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


UNDER_WAY = frozenset({State.SHADOWING, State.STEPPING, State.PAUSED, State.HOLDING})
"""A candidate is being tried, and has the weight of its step; shadows see copies."""


class Event(enum.StrEnum):
    """What can happen to a rollout."""

    START = "start"
    SHADOW_DONE = "shadow_done"
    ADVANCE = "advance"
    STEP = "step"
    PAUSE = "pause"
    RESUME = "resume"
    HOLD = "hold"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    ABORT = "abort"
    BREACH = "breach"
    INCONCLUSIVE = "inconclusive"
    CANDIDATE_LOST = "candidate_lost"
    REPLACE = "replace"


SUBMIT = "submit"
"""What the history calls the beginning of a model's first plan, before which there is no state."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a document: what it does not know is a mistake, and no two revisions share what can change."""


class Sticky(_Part, frozen=True, kw_only=True):
    """What decides a request's arm: equal keys stay with one arm."""

    source: str = msgspec.field(default="request_id", name="from")
    """``header:NAME``, ``parameter:NAME``, ``input:NAME`` or ``request_id``."""
    salt: str
    """Two models with one salt send the same users to both their candidates."""


class Other(_Part, frozen=True, kw_only=True):
    """A third version with a constant weight while the rollout runs."""

    version: str
    percent: float


class Shadow(_Part, frozen=True, kw_only=True):
    """A version that sees copies of ``percent`` of the requests and answers nobody."""

    version: str
    percent: float
    salt: str


class Step(_Part, frozen=True, kw_only=True):
    """A weight of the candidate, and what has to be seen before it is left."""

    percent: float
    min_time_s: float = 300.0
    min_samples: int = 1000
    """Requests that the candidate answered in this step."""


class PlannedGuardrail(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that must not get worse, as ``rollout.evidence.Guardrail`` says; None leaves it that one's default.

    It is loose on purpose: an unknown kind is for ``rollout.checking`` to tell, together with everything else.
    """

    kind: str
    tolerated: float | None = None
    negligible: float | None = None
    alpha_share: float | None = None
    burst: float | None = None


class Arm(_Part, frozen=True, kw_only=True):
    """A version that gets live traffic."""

    version: str
    weight_percent: float
    intervals: Share = ()
    """In parts per million of [0, 1), as long in all as the weight."""


class HistoryEntry(_Part, frozen=True, kw_only=True):
    """One change that was made."""

    at_s: float
    revision: int
    """Of the plan that the change made."""
    event: str
    source: str = msgspec.field(name="from")
    """The state before; empty for the first."""
    target: str = msgspec.field(name="to")
    author: str
    reason: str


class Proposal(_Part, frozen=True, kw_only=True):
    """What people write: everything about a rollout that does not change while it runs."""

    format: int = FORMAT
    model: str
    champion: str
    """The version that traffic falls back to."""
    candidate: str = ""
    """The version that is rolled out; empty for a plan that only shadows."""
    others: tuple[Other, ...] = ()
    sticky: Sticky
    shadows: tuple[Shadow, ...] = ()
    shadow_min_time_s: float = 300.0
    shadow_min_samples: int = 500
    """Compared copies, before the candidate gets its first weight."""
    comparison: PlannedComparison = PlannedComparison()
    """How the answers to copies are compared."""
    slices: tuple[str, ...] = ()
    """``input:NAME``, ``parameter:NAME`` or ``header:NAME``: answers are compared by the values of these, too."""
    self_copy_percent: float = 1.0
    """Of requests that the champion answers twice, to know how much it differs from itself; only beside shadows."""
    steps: tuple[Step, ...] = ()
    guardrails: tuple[PlannedGuardrail, ...] = ()
    """None asks for the usual ones, ``rollout.evidence.default_guardrails``."""
    slo_ms: float = 100.0
    """An answer that takes longer counts as slow."""
    alpha: float = 0.01
    """How likely a candidate that does no harm is called harmful by any guardrail, however often one looks."""
    deadline_s: float = 86_400.0
    """The longest that one step, or the shadowing, may last without an answer."""

    @property
    def shadows_candidate(self) -> bool:
        return any(shadow.version == self.candidate for shadow in self.shadows)

    @property
    def self_copy_salt(self) -> str:
        """By which the requests for self copies are picked: of its own, or they would hang together with the arms."""
        return f"{self.sticky.salt}/self"


class Plan(Proposal, frozen=True, kw_only=True):
    """The document as it is stored. Only ``rollout.controller`` makes one.

    ``began_revision``: the one that this plan was submitted as; what is older belongs to the plan before.
    ``step`` counts from 0, and is ``NO_STEP`` before the first. ``step_began_s``: since when the step's minimum time
    and deadline run; a resumed step begins again. ``evidence_since``: the revision from which the step's evidence
    counts; a resumed step keeps it. ``author`` and ``reason`` are those of the last change.
    """

    revision: int
    began_revision: int
    state: State
    arms: tuple[Arm, ...]
    step: int
    step_began_s: float
    evidence_since: int
    author: str
    reason: str
    created_s: float
    updated_s: float
    history: tuple[HistoryEntry, ...]
    """The last ``MAX_HISTORY_ENTRIES`` changes, the newest last."""

    @property
    def answering(self) -> str:
        """The version that all traffic comes to once nothing is being tried any more."""
        return self.candidate if self.state is State.PROMOTED else self.champion

    @property
    def is_last_step(self) -> bool:
        return self.step == len(self.steps) - 1

    def shares(self) -> dict[str, Share]:
        """The intervals by version, as ``rollout.split`` takes them."""
        return {arm.version: arm.intervals for arm in self.arms}


def weights_ppm(proposal: Proposal, state: State, step: int) -> dict[str, int]:
    """What every arm weighs in a state and step, in parts per million; nothing else ever sets a weight.

    In order: champion, candidate (if there is one), others. Raises ``rollout.split.SplitError`` for percentages that
    are none; with more than 100 % for candidate and others the champion's weight is negative.
    """
    weights = {proposal.champion: 0}
    if proposal.candidate:
        weights[proposal.candidate] = 0
    weights.update((other.version, 0) for other in proposal.others)
    if state in UNDER_WAY:
        for other in proposal.others:
            weights[other.version] = ppm_of_percent(other.percent)
        if proposal.candidate and step != NO_STEP:
            weights[proposal.candidate] = ppm_of_percent(proposal.steps[step].percent)
    elif state is State.PROMOTED:
        weights[proposal.candidate] = WHOLE_PPM
    weights[proposal.champion] = WHOLE_PPM - sum(weights.values())
    return weights


def arms_of(shares: dict[str, Share]) -> tuple[Arm, ...]:
    """The arms of a document, of the intervals by version."""
    return tuple(
        Arm(
            version=version,
            weight_percent=weight_ppm(share) * 100 / WHOLE_PPM,
            intervals=share,
        )
        for version, share in shares.items()
    )


def history_with(
    plan: Plan | None, event: str, target: State, at_s: float, author: str, reason: str
) -> tuple[HistoryEntry, ...]:
    """The history of the revision after ``plan`` (None: of a first one), without what is too old to be kept."""
    entry = HistoryEntry(
        at_s=at_s,
        revision=plan.revision + 1 if plan else 1,
        event=str(event),
        source=plan.state.value if plan else "",
        target=target.value,
        author=author,
        reason=storable(reason),
    )
    return (*(plan.history if plan else ()), entry)[-MAX_HISTORY_ENTRIES:]


def storable(reason: str) -> str:
    """Not too long, and without halves of characters, which no JSON can hold."""
    return reason[:MAX_REASON_CHARACTERS].encode("utf-8", "replace").decode()


def encode(plan: Proposal) -> bytes:
    """The document as JSON. Raises ``PlanError`` for one that ``decode_plan`` could not read back."""
    try:
        document = msgspec.json.encode(plan)
    except UnicodeEncodeError as error:
        raise PlanError(f"a text of the plan is no Unicode: {error}; write it again") from None
    if len(document) > MAX_DOCUMENT_BYTES:
        raise PlanError(
            f"the plan takes {len(document)} bytes, more than {MAX_DOCUMENT_BYTES}: shorten its texts"
        )
    return document


def decode_proposal(document: bytes) -> Proposal:
    """What somebody wrote. Raises ``PlanError``; whether it makes sense is for ``rollout.checking`` to say."""
    return _decoded(document, Proposal)


def decode_plan(document: bytes) -> Plan:
    """A stored plan. Raises ``PlanError``, also for a format of another release."""
    return _decoded(document, Plan)


_KindT = TypeVar("_KindT", bound=Proposal)


class _Format(msgspec.Struct):
    format: int = FORMAT


def _decoded(document: bytes, kind: type[_KindT]) -> _KindT:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise PlanError(
            f"the plan takes {len(document)} bytes, more than {MAX_DOCUMENT_BYTES}: shorten it"
        )
    try:
        # The format first: what another one calls its fields is not for this one to criticise.
        found = msgspec.json.decode(document, type=_Format).format
        if found != FORMAT:
            raise PlanError(
                f"the plan is of format {found}, and this release reads format {FORMAT}: "
                "use the release that wrote it, or write the plan again"
            )
        return msgspec.json.decode(document, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"this is no plan: {error}") from None


def seconds_between(earlier_s: float, later_s: float) -> float:
    """How much later; never negative, whatever a clock did between the two, and 0 for what is no time."""
    passed_s = later_s - earlier_s
    return passed_s if passed_s > 0 and math.isfinite(passed_s) else 0.0
