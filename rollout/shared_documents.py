"""Plans, counters and heartbeats as bytes, and back: the same whichever store keeps them.

Decides what may be written, and what becomes of bytes that somebody else wrote: a plan that cannot be read is an error
with its digest, counters that cannot be read are counters that may be lost, a heartbeat that cannot be read is none. It
must never connect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from rollout.plan import MAX_DOCUMENT_BYTES, Plan, PlanError, decode_plan, encode
from rollout.ports import (
    MAX_BEAT_BYTES,
    MAX_REPORT_BYTES,
    MAX_WORKERS,
    CorruptPlanError,
    Counters,
    Stored,
    WorkerBeat,
)
from rollout.shadow_report import without_slices

_LOST = Counters(is_complete=False)


def stored_plan(model: str, document: bytes) -> Stored:
    """The plan of ``model``. Raises ``CorruptPlanError``."""
    try:
        plan = decode_plan(document)
        if plan.model != model:
            raise PlanError(f"it is the plan of model {plan.model}")
    except PlanError as error:
        raise corrupt_plan(model, str(error), document) from None
    return Stored(plan, document)


def corrupt_plan(model: str, reason: str, document: bytes) -> CorruptPlanError:
    """The error for a document that is there and cannot be used."""
    seen = document[: MAX_DOCUMENT_BYTES + 1]  # no more of it is read
    return CorruptPlanError(model, reason, hashlib.sha256(seen).hexdigest())


def plan_document(plan: Plan, expected_revision: int, fence: int) -> bytes:
    """What is to be written. Raises ``ValueError`` for a revision that does not follow, and a fence that is none."""
    if expected_revision < 0 or plan.revision != expected_revision + 1:
        raise ValueError(
            f"revision {plan.revision} cannot be written over revision {expected_revision}: "
            "apply the change to what is stored"
        )
    if fence < 0:
        raise ValueError(f"{fence} is no fence: give the lease's, or 0 for a person")
    return encode(plan)


def report_document(counters: Counters) -> bytes:
    """Slices are left out where it would be too long: no verdict needs them. Raises ``ValueError`` if it still is."""
    document = msgspec.json.encode(counters)
    if len(document) > MAX_REPORT_BYTES and counters.comparisons:
        shorter = without_slices(counters.comparisons)
        document = msgspec.json.encode(msgspec.structs.replace(counters, comparisons=shorter))
    return _bounded(document, MAX_REPORT_BYTES, "the counters")


def beat_document(beat: WorkerBeat) -> bytes:
    """Raises ``ValueError`` for one that is too long."""
    return _bounded(msgspec.json.encode(beat), MAX_BEAT_BYTES, "the heartbeat")


def read_report(document: bytes) -> Counters:
    """One worker's counters; of what cannot be read only this is known, that something was counted."""
    try:
        return msgspec.json.decode(document, type=Counters)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _LOST


def read_beats(documents: Iterable[bytes]) -> list[WorkerBeat]:
    """By worker, sorted."""
    beats = []
    for document in documents:
        try:
            beats.append(msgspec.json.decode(document, type=WorkerBeat))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # its worker beats again in half a second, or is of another release
    return sorted(beats, key=lambda beat: beat.worker)


def too_many_workers(name: str) -> str:
    """The sentence about a store that remembers as many workers as it may."""
    return f"{name} remembers {MAX_WORKERS} workers already: find out what starts so many"


def _bounded(document: bytes, most_bytes: int, what: str) -> bytes:
    if len(document) > most_bytes:
        raise ValueError(f"{what} take {len(document)} bytes, more than {most_bytes}")
    return document
