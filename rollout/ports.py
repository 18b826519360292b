"""What processes share about rollouts, and the port they share it through: plans, counters, heartbeats, and one lease.

Decides the values that cross the port and what every implementation promises; ``tests/contract/rollout`` holds all of
them to it. It must never connect, wait or judge.

Three rules make a crash anywhere harmless. A plan is only ever written over the revision that its writer has read, and
never by a lease's holder after a later holder has written. A worker's counters are its own and absolute, so writing
them twice, or again into a store that was emptied, counts nothing twice. Nothing here is retried unasked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from rollout.controller import Heartbeat
from rollout.evidence import MAX_STRETCHES, PairedScores, RecentOutcomes, Stretch
from rollout.plan import Plan
from rollout.shadow_report import MAX_REPORTS, ShadowReport

CALL_TIMEOUT_S = 1.0
"""What any call may take, unless the settings say otherwise."""
LEASE_MS = 3000
"""How long a lease lasts that is not kept."""
BEAT_KEPT_MS = 60_000
"""After so long without another one, a heartbeat is dropped."""
REPORTS_KEPT_S = 180 * 86_400
"""Since the last report of any worker; twice the longest deadline."""
MAX_WORKERS = 4096
"""That are remembered at once: heartbeats, and reports of one plan."""
MAX_MODELS = 4096
MAX_REPORT_BYTES = 2 * 1024 * 1024
MAX_BEAT_BYTES = 256 * 1024


class StoreAwayError(Exception):
    """The store did not do what it was asked; the message says what to do, and holds no password.

    Whether a write took place is not known: ask again, or write again, which does it once.
    """


class CorruptPlanError(Exception):
    """What is stored as a model's plan is none. It is left as it is, for whoever looks into it."""

    def __init__(self, model: str, reason: str, digest: str) -> None:
        super().__init__(
            f"the stored plan of model {model} cannot be read (sha256 {digest}): {reason}; put back "
            "what was there, or delete it and submit a plan again"
        )
        self.model = model
        self.reason = reason
        self.digest = digest
        """SHA-256 of what is stored, in hex; of something longer than any plan, of the part that was read."""


class Stored(msgspec.Struct, frozen=True):
    """A plan as it was read."""

    plan: Plan
    document: bytes
    """The very bytes."""


class Written(msgspec.Struct, frozen=True):
    """The plan is stored."""


class Conflict(msgspec.Struct, frozen=True):
    """Nothing was written: somebody else was first."""

    stored: Stored | None
    """What is there; None when there is no plan."""
    newer_fence: int = 0
    """Of a later holder of the lease who has written; 0 when only the revision differs. Whoever sees one must stop."""


class Counters(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that one worker has counted of one plan since it was submitted: absolute numbers, never increments."""

    stretches: Annotated[tuple[Stretch, ...], Meta(max_length=MAX_STRETCHES)] = ()
    candidate_recent: RecentOutcomes = RecentOutcomes()
    champion_recent: RecentOutcomes = RecentOutcomes()
    paired_scores: PairedScores | None = None
    comparisons: Annotated[tuple[ShadowReport, ...], Meta(max_length=MAX_REPORTS)] = ()
    """What copies to shadows have shown, by version."""
    is_complete: bool = True
    """False when the worker knows that it has lost some, or when what it wrote cannot be read."""
    is_final: bool = False
    """The worker has stopped in order, and nothing more will come: its silence loses nothing."""


class ModelBeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model in a worker's heartbeat; the fields are those of ``rollout.controller.Heartbeat``."""

    model: str
    revision: int
    acting_s: float
    warm: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()


class WorkerBeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker says of itself, twice a second."""

    worker: str
    """Different for every process, also for one that takes another's place."""
    at_s: float
    """By the worker's wall clock."""
    models: Annotated[tuple[ModelBeat, ...], Meta(max_length=MAX_MODELS)] = ()
    has_left: bool = False
    """It stops in order: nothing is missing when no more is heard of it."""


class Rollouts(Protocol):
    """The store, as everybody sees it. Each call ends within its timeout, or raises ``StoreAwayError``.

    What is too large, and a plan whose revision does not follow, raises ``ValueError``: that is the caller's mistake.
    """

    async def models(self) -> list[str]:
        """Sorted; one may have no plan yet."""

    async def plan(self, model: str) -> Stored | None:
        """The model's plan. Raises ``CorruptPlanError``."""

    async def write(self, plan: Plan, expected_revision: int, fence: int) -> Written | Conflict:
        """Store ``plan`` in the place of ``expected_revision`` (0: of none), of which it must be the next revision.

        ``fence``: of the writer's lease; 0 for a person, whom only the revision can stop. The very document that is
        there already is ``Written``: a write whose answer was lost may be made again. Raises ``CorruptPlanError``.
        """

    async def report(
        self, worker: str, model: str, began_revision: int, counters: Counters
    ) -> None:
        """Put the worker's counters in the place of its earlier ones."""

    async def reports(self, model: str, began_revision: int) -> dict[str, Counters]:
        """By worker. What cannot be read is there as counters that are not complete."""

    async def beat(self, beat: WorkerBeat) -> None:
        """Put the worker's heartbeat in the place of its earlier one."""

    async def beats(self) -> list[WorkerBeat]:
        """By worker, sorted, also of those that left. Drops what is too old by the store's clock."""

    async def take_lease(self, owner: str, now_s: float) -> int | None:
        """The fence, higher than every one before; None while somebody else has the lease.

        Who has it already gets it again with a new fence: the answer to its first call may have been lost. ``now_s``,
        the wall clock, is below no fence: a store that lost its data starts above what it has given out before.
        """

    async def keep_lease(self, owner: str) -> bool:
        """Have it for another ``LEASE_MS``. False when it is not the owner's any more: stop acting at once."""

    async def drop_lease(self, owner: str) -> None:
        """Let the next one have it at once; nothing happens when it is another's."""

    def changes(self) -> AsyncGenerator[str, None]:
        """Models whose plan has changed, as it happens; first each there is, as soon as none can be missed any more.

        Ends when the connection is lost: open it again, and do not rely on it, but read the plans now and then too.
        Close it (``aclose``) if it is left early.
        """

    async def close(self) -> None:
        """Let go of every connection. Nothing may be asked afterwards."""


def fence_floor(now_s: float) -> int:
    """The least fence that may be given out at ``now_s``: milliseconds since 1970, or 1 for what is no time."""
    return int(now_s * 1000) if 0 < now_s < 1e12 else 1


def heartbeats_of(beats: Sequence[WorkerBeat], model: str) -> list[Heartbeat]:
    """What ``rollout.controller`` asks for: one model's heartbeats, without workers that left in order.

    A worker that says nothing of the model has not read its plan yet: it acts on revision 0, and has nothing warm.
    """
    return [
        _heartbeat(beat, next((one for one in beat.models if one.model == model), None))
        for beat in beats
        if not beat.has_left
    ]


def _heartbeat(beat: WorkerBeat, said: ModelBeat | None) -> Heartbeat:
    if said is None:
        return Heartbeat(gateway=beat.worker, at_s=beat.at_s, revision=0, acting_s=0.0)
    return Heartbeat(
        gateway=beat.worker,
        at_s=beat.at_s,
        revision=said.revision,
        acting_s=said.acting_s,
        warm=said.warm,
        gone=said.gone,
    )
