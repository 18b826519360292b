"""Two rollouts under real traffic: version 2 takes over from version 1, and a broken version 3 leaves by itself.

Decides what is rolled out, how fast, and what has to be true of it. Rollouts are begun by ``headrace rollout start``
and moved by the gateway's controller alone. It must never move a weight itself, wait without a limit, or say a figure
that was not measured: callers' figures are the travellers' own notes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from examples.flights import broken_version
from examples.flights.broken_version import BASE, BROKEN
from examples.flights.bundle import MODEL_NAME, Bundle
from examples.flights.callers import Asked, TritonGrpc
from examples.flights.claims import WrongAnswerError
from examples.flights.inputs import read_training_set
from examples.flights.place import Headrace
from examples.flights.rollout_page import RolloutPage
from examples.flights.rollout_seen import ENDED, Change, Copies, PlanSeen, Seen, look
from examples.flights.traffic import USER_HEADER, Call, Travellers
from examples.flights.traffic_judging import (
    SETTLING_S,
    Share,
    between,
    check_all_by,
    check_answered,
    check_forward,
    check_share,
    harm_of,
    share_of,
)

FIRST = 1
STEPS = "5,25,50,100"
MIN_TIME_S = 5
MIN_SAMPLES = 100
SHADOW_PERCENT = 10
PLAN_FILE = "rollout.toml"
PLAN = """\
# What every rollout of the demo has in common. These figures are for a demo of seconds: the fewer requests a step
# sees, the more it has to tolerate. Where a step lasts an hour, leave the guardrails out: the usual ones ask for more.
self_copy_percent = 5   # what version 1 is copied to itself: its own noise
slo_ms = 1000           # a demo on a busy laptop
guardrails = [
    { kind = "errors", tolerated = 0.05 },
    { kind = "slow", tolerated = 0.05 },
    { kind = "invalid", tolerated = 0.05 },
]

[[comparison.outputs]]
name = "late_probability"
abs_tolerance = 0.05    # chances that are so far apart differ
threshold = 0.5         # an answer is flipped when the other version says the other side
"""
ACT_LIMIT_S = 120.0
"""For each rollout; a machine at rest needs 25 s for the longer one."""
LOOK_EVERY_S = 0.3
TELL_EVERY_S = 2.0
AFTER_S = 1.5
LEAST_AFTER = 20
"""Calls that must have been answered in ``AFTER_S``, on however slow a machine."""
GONE_LIMIT_S = 5.0
"""From the controller's decision until nobody is answered by a version any more."""


@dataclass(frozen=True)
class Stage:
    """Everything that the acts need."""

    headrace: Headrace
    admin: str
    """``host:port``."""
    page: RolloutPage
    travellers: Travellers


class RolloutStuckError(WrongAnswerError):
    """A rollout did not end, or not as it should; the message says what kept it."""


def play(
    headrace: Headrace, addresses: dict[str, str], asked: Asked, grpc: TritonGrpc, page: RolloutPage
) -> None:
    """Both acts, one after the other, under one traffic."""
    (headrace.place.folder / PLAN_FILE).write_text(PLAN, "utf-8")
    with Travellers(addresses, asked) as travellers:
        stage = Stage(headrace, addresses["admin"], page, travellers)
        promote(stage)
        withdraw(stage, grpc, asked)
    check_log(stage)


# ---- version 2 takes over ----------------------------------------------------------------------------------


def promote(stage: Stage) -> None:
    """From version 1 to version 2; the travellers begin to ask once version 1 answers everybody."""
    page = stage.page
    page.section(f"Act 1: version {BASE} takes over from version {FIRST}, step by step")
    page.settings(MIN_TIME_S, MIN_SAMPLES)
    start(stage, "--from", str(FIRST), "--to", str(BASE), "--shadow", str(SHADOW_PERCENT))
    time.sleep(SETTLING_S)  # without a plan version 2 answered; from here on version 1 does
    stage.travellers.begin()
    page.travellers()
    story = Story(stage)
    seen = story.follow("promoted")
    time.sleep(SETTLING_S + AFTER_S)
    calls = stage.travellers.calls()
    check_answered(calls)
    check_order(seen.plan)
    shares = shares_by_step(seen.plan, calls)
    for percent, share in shares.items():
        check_share(share, f"step {percent:g} %")
    promoted_s = seen.plan.changes()[-1].at_s
    check_all_by(between(calls, promoted_s + SETTLING_S, time.time()), BASE, LEAST_AFTER)
    if story.copies is None or story.copies.scores is None:
        raise WrongAnswerError("no copies were compared")
    page.copies(story.copies)
    page.promoted(calls, shares, check_forward(calls))


def check_order(plan: PlanSeen) -> None:
    """The controller took every step, in order, and nothing else happened."""
    events = [one.event for one in plan.changes()]
    wanted = ["start", "shadow_done", *["advance"] * (len(plan.steps) - 1), "promote"]
    if events[-len(wanted) :] != wanted or len(events) != len(wanted) + 1:
        raise WrongAnswerError(f"the rollout went {' → '.join(events)}, not {' → '.join(wanted)}")


def shares_by_step(plan: PlanSeen, calls: Sequence[Call]) -> dict[float, Share]:
    """What the candidate had in each step, by the step's percentage, without the time in which plans change."""
    entered = [one.at_s for one in plan.changes() if one.event in {"shadow_done", "advance"}]
    left = [*entered[1:], plan.changes()[-1].at_s]
    return {
        step.percent: share_of(
            between(calls, from_s + SETTLING_S, until_s), int(plan.candidate), step.percent / 100
        )
        for step, from_s, until_s in zip(plan.steps, entered, left, strict=True)
    }


# ---- version 3 leaves --------------------------------------------------------------------------------------


def withdraw(stage: Stage, grpc: TritonGrpc, asked: Asked) -> None:
    """A version that is broken for some flights is rolled out, and taken back by the controller."""
    page, place = stage.page, stage.headrace.place
    page.section(f"Act 2: version {BROKEN} is broken, and leaves by itself")
    began = time.monotonic()
    finding = broken_version.build(Bundle(place.models), read_training_set(place))
    page.built(finding, time.monotonic() - began)
    began_s = time.time()
    start(stage, "--to", str(BROKEN))
    seen = Story(stage).follow("rolled_back")
    breach = seen.plan.changes()[-1]
    time.sleep(SETTLING_S + AFTER_S)
    calls = stage.travellers.calls(began_s)
    harm = harm_of(calls, BROKEN)
    last_s = max(one.ended_s for one in calls if one.version == BROKEN)
    if last_s > breach.at_s + GONE_LIMIT_S:
        raise WrongAnswerError(
            f"version {BROKEN} answered {last_s - breach.at_s:.1f} s after it was taken back"
        )
    if not harm.odd:
        raise WrongAnswerError(f"version {BROKEN} was taken back, and no caller saw an odd answer")
    check_all_by(between(calls, breach.at_s + SETTLING_S, time.time()), BASE, LEAST_AFTER)
    check_answered([one for one in calls if one.version != BROKEN])
    first_s = next(one.began_s for one in calls if one.version == BROKEN)
    decided = [one for one in calls if one.version == BROKEN and one.ended_s <= breach.at_s]
    page.withdrawn(breach.reason, decided, harm, breach.at_s - first_s)
    answers = grpc.ask(asked)
    if not np.array_equal(answers, grpc.ask(asked, version=str(BASE))):
        raise WrongAnswerError(f"a call that names no version is not answered by version {BASE}")
    after = between(calls, last_s, time.time())
    page.safe(len(answers), BASE, len(after))


def check_log(stage: Stage) -> None:
    """The audit log is whole, and has a record of every change."""
    log = stage.headrace.place.rollouts / "audit.jsonl"
    shown = str(log.relative_to(stage.headrace.place.folder))
    stage.page.command(f"headrace audit verify {shown}")
    found = json.loads(stage.headrace.run("audit", "verify", shown, "--json"))
    revisions = look(stage.admin).plan.revision
    if found["finding"] is not None or found["records"] != revisions:
        raise WrongAnswerError(
            f"{revisions} changes were made, and the audit log has {found['records']} records: {found['finding']}"
        )
    stage.page.log(found["records"], found["head"])


# ---- both --------------------------------------------------------------------------------------------------


def start(stage: Stage, *words: str) -> None:
    """Begin a rollout by the command."""
    line = [
        "rollout", "start", MODEL_NAME, *words, "--steps", STEPS, "--min-time", f"{MIN_TIME_S}s",
        "--min-samples", str(MIN_SAMPLES), "--sticky", f"header:{USER_HEADER}", "--file", PLAN_FILE,
    ]  # fmt: skip
    stage.page.start_command(line)
    said = stage.headrace.run(*line, "--admin-url", f"http://{stage.admin}")
    stage.page.said(said)


class Story:
    """Follows one rollout, and tells every change and the share that was measured."""

    def __init__(self, stage: Stage, see: Callable[[str], Seen] = look) -> None:
        self.copies: Copies | None = None
        """What the copies showed last."""
        self._stage = stage
        self._see = see
        self._told = 0
        self._began_s = 0.0
        self._since_s = time.time()

    def follow(self, end: str) -> Seen:
        """Until the rollout has ended in the state ``end``. Raises ``RolloutStuckError``."""
        until = time.monotonic() + ACT_LIMIT_S
        tell_at = time.monotonic() + TELL_EVERY_S
        while True:
            seen = self._see(self._stage.admin)
            if self._tell_changes(seen.plan):
                tell_at = time.monotonic() + TELL_EVERY_S
            self._keep_copies(seen)
            if seen.plan.state in ENDED:
                break
            if time.monotonic() >= tell_at:
                self._tell_share(seen)
                tell_at = time.monotonic() + TELL_EVERY_S
            if time.monotonic() >= until:
                raise RolloutStuckError(
                    f"the rollout is {seen.plan.state} after {ACT_LIMIT_S:g} s: {seen.decision.reason}"
                )
            time.sleep(LOOK_EVERY_S)
        if seen.plan.state != end:
            last = seen.plan.changes()[-1]
            raise RolloutStuckError(
                f"the rollout ended {seen.plan.state}, not {end}: {last.reason}"
            )
        return seen

    def _tell_changes(self, plan: PlanSeen) -> bool:
        new = [one for one in plan.changes() if one.revision > self._told and one.event in TOLD]
        changes = plan.changes()
        self._began_s = self._began_s or next(one.at_s for one in changes if one.event == "start")
        for change in new:
            percent = percent_after(change, plan)
            self._stage.page.change(change, change.at_s - self._began_s, plan, percent)
            self._told, self._since_s = change.revision, change.at_s
        return bool(new)

    def _tell_share(self, seen: Seen) -> None:
        plan, now_s = seen.plan, time.time()
        calls = between(self._stage.travellers.calls(self._since_s), self._since_s, now_s)
        if plan.state == "shadowing":
            self._stage.page.shadowing(now_s - self._began_s, len(calls), seen.samples)
        elif plan.step >= 0:
            planned = plan.steps[plan.step].percent
            share = share_of(calls, int(plan.candidate), planned / 100)
            self._stage.page.measured(now_s - self._began_s, plan.candidate, share)

    def _keep_copies(self, seen: Seen) -> None:
        found = next(iter(seen.shadows), None)
        if found is not None and found.scores is not None:
            self.copies = found


TOLD = frozenset({"start", "shadow_done", "advance", "promote", "breach", "hold", "inconclusive"})


def percent_after(change: Change, plan: PlanSeen) -> float:
    """What the candidate has since ``change``: by how many steps were taken until then."""
    if change.to == "promoted":
        return 100.0
    if change.to not in {"stepping", "holding", "paused"}:
        return 0.0
    steps = -1
    for one in plan.changes():
        is_first = one.event == "start" and one.to == "stepping"
        steps += one.event in {"shadow_done", "advance"} or is_first
        if one.revision == change.revision:
            break
    return plan.steps[steps].percent
