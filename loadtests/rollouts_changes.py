"""Decides how it is measured when a change of weights is in force everywhere: users call while a candidate goes up.

Weights climb step by step, again and again under another salt, each change after the one before was in force. Two
witnesses: the heartbeats, and the answers themselves. It must never count a user as gone back who met a process that
had not heard of the change yet, nor leave out one that went back after all had.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtests.core_meter import CoreMeter
from loadtests.failures import RowError
from loadtests.operations_client import Seen
from loadtests.rollouts_client import user_of
from loadtests.rollouts_load import users
from loadtests.rollouts_stage import CANDIDATE, CHAMPION, ROUTED, Admin, gateways, proposal
from loadtests.rollouts_verdict import WORKERS, ChangeSample
from loadtests.workbench import Workbench

PROCESSES = 4
STEPS = 20
PERCENTS = [round(4.75 * (at + 1), 4) for at in range(STEPS)]
USERS = 101
"""No multiple of the gateways, so that every user meets each of them."""
RATE = 1000.0
"""Calls a second over all: what one core bears beside four gateways, and each user ten times a second."""
SETTLE_S = 0.15
"""Between a change that is in force and the next one, for calls that were under way."""
MOST_S = 400.0


class Change(msgspec.Struct, frozen=True):
    """When, on the monotonic clock, a change was asked for, answered, and in force by the heartbeats."""

    asked_s: float
    answered_s: float
    in_force_s: float


class Watched(msgspec.Struct, frozen=True):
    """What the answers say of the changes."""

    answers_s: list[float]
    moved: int
    flips: int


def measure(bench: Workbench, repository: Path, row: str, changes: int, cores: str) -> ChangeSample:
    """All changes of a row; raises ``RowError`` when one does not come into force."""
    instances, workers = (1, PROCESSES) if row == WORKERS else (PROCESSES, 1)
    with gateways(
        bench, repository, instances=instances, workers=workers, cores=cores, control=True
    ) as started:
        admin = Admin.of(started[0])
        try:
            with users(
                bench,
                started,
                model=ROUTED,
                rows=1,
                count=USERS,
                rate=RATE,
                seconds=MOST_S,
            ) as calling:
                meter = CoreMeter(started[0], bench.server_core, bench.load_core)
                ramps, first_s = _climb(admin, row, changes)
                seen = calling.result()
                foreign = meter.read().foreign_share
        finally:
            admin.close()
    # Of several processes the meter sees one, and would call the others' time foreign.
    return sample_of(row, ramps, first_s, seen, foreign if instances == 1 else 0.0)


def _climb(admin: Admin, row: str, changes: int) -> tuple[list[list[Change]], float]:
    """So many steps, in ramps that each begin with a plan of their own; and when the first plan was in force.

    The plan that a ramp begins with is not counted as a change: its weights do not grow.
    """
    ramps: list[list[Change]] = []
    first_s = 0.0
    done = 0
    while done < changes:
        revision = admin.put(ROUTED, proposal(f"{row}-{len(ramps)}", PERCENTS))
        in_force_s = admin.await_force(ROUTED, revision, PROCESSES)
        first_s = first_s or in_force_s
        time.sleep(2 * SETTLE_S)
        ramp: list[Change] = []
        for number in range(2, min(STEPS, 1 + changes - done) + 1):
            asked_s = time.monotonic()
            revision = admin.step(ROUTED, number)
            answered_s = time.monotonic()
            ramp.append(Change(asked_s, answered_s, admin.await_force(ROUTED, revision, PROCESSES)))
            time.sleep(SETTLE_S)
        done += len(ramp)
        ramps.append(ramp)
    return ramps, first_s


def sample_of(
    row: str, ramps: Sequence[Sequence[Change]], first_s: float, seen: Seen, foreign_core: float
) -> ChangeSample:
    """The figures, of when changes were made and what the users saw; the first plan was in force at ``first_s``."""
    failures = Counter(
        f"{outcome}: {detail}"
        for outcome, detail in zip(seen.outcome, seen.detail, strict=True)
        if outcome != "answered"
    )
    failed_s = [
        due_s
        for due_s, outcome in zip(seen.due_s, seen.outcome, strict=True)
        if outcome != "answered"
    ]
    if not seen.due_s:
        raise RowError("no call was due")
    changes = [change for ramp in ramps for change in ramp]
    watched = [watch(ramp, seen) for ramp in ramps]
    return ChangeSample(
        row=row,
        rate=RATE,
        beats_s=[one.in_force_s - one.answered_s for one in changes],
        answers_s=[seconds for one in watched for seconds in one.answers_s],
        written_s=[one.answered_s - one.asked_s for one in changes],
        moved=sum(one.moved for one in watched),
        calls=len(seen.due_s),
        failed=sum(due_s > first_s for due_s in failed_s),
        failed_first=sum(due_s <= first_s for due_s in failed_s),
        failures=dict(failures.most_common(5)),
        flips=sum(one.flips for one in watched),
        foreign_core=foreign_core,
    )


def watch(ramp: Sequence[Change], seen: Seen) -> Watched:
    """What a ramp's answers say of its changes.

    A user moves in the change after whose asking the candidate answered first. An answer of the champion to a call of
    that user sent after the change was answered is of a process that had not heard of it; one sent after the change
    was in force everywhere is a way back. Before the first and after the last change nothing is looked at.
    """
    begins = [one.asked_s for one in ramp]
    until_s = ramp[-1].in_force_s + SETTLE_S
    calls: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for token, sent_s in enumerate(seen.sent_s):
        if seen.outcome[token] == "answered" and begins[0] - 2 * SETTLE_S <= sent_s < until_s:
            calls[user_of(token, USERS)].append((sent_s, seen.detail[token]))
    stale_s = [0.0] * len(ramp)
    moved = flips = 0
    for answers in calls.values():
        answers.sort()
        first_s = next((sent_s for sent_s, version in answers if version == CANDIDATE), None)
        # A call that was under way when the change was asked for may have met it: no later one is its.
        at = -1 if first_s is None else bisect_right(begins, first_s) - 1
        if first_s is None or at < 0:
            if first_s is not None:  # it was with the candidate before the first change
                flips += sum(version == CHAMPION and sent > first_s for sent, version in answers)
            continue
        moved += 1
        change = ramp[at]
        for sent_s, version in answers:
            if version != CHAMPION or sent_s <= change.answered_s:
                continue
            stale_s[at] = max(stale_s[at], sent_s - change.answered_s)
            flips += sent_s > change.in_force_s
    return Watched(stale_s, moved, flips)
