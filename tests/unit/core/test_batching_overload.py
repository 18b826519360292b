"""More work than the servable can do: the rules of admission, checked by running days of invented arrivals."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

import pytest

from gateway.core.batch import Batch, QueueItem
from tests.unit.core.items import Queue, item, queue

# -- an admitted request is never made late by a later one of its level ----------------------------


def answers_s(lane: Queue, now: float) -> dict[int, float]:
    """When each item inside would be answered if nothing else came: run a copy of the lane to its end."""
    lane = deepcopy(lane)
    running = list(lane._running)
    times_s: dict[int, float] = {}
    while True:
        while (batch := lane.take(now)) is not None:
            running.append(batch)
        if not running:
            return times_s
        batch = min(running, key=lambda one: one.started_s + one.expected_s)
        running.remove(batch)
        now = max(now, batch.started_s + batch.expected_s)
        for one in lane.finished(batch, now):
            times_s[one.order] = now


KINDS: dict[str, dict[str, Any]] = {
    "one_shape": {"shapes": 1, "levels": 1},
    "shapes": {"shapes": 3, "levels": 1},
    "levels": {"shapes": 2, "levels": 3},
    "instances": {"shapes": 1, "levels": 2, "instances": 2},
    "unbatched": {"shapes": 1, "levels": 2, "batched": False, "max_batch_rows": 1},
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_an_admitted_request_is_never_made_late_by_a_later_one_of_its_level(
    kind: str, seed: int
) -> None:
    limits = {"max_batch_rows": 8, **KINDS[kind]}
    shapes, levels = limits.pop("shapes"), limits.pop("levels")
    dice = Random(f"{kind} {seed}")
    lane = queue(*dice.choice([(1.0, 0.0), (1.0, 0.25), (0.25, 0.25)]), **limits)
    now = 0.0
    admitted: dict[int, QueueItem] = {}
    for _ in range(25):
        if dice.random() < 0.3 and (lane.take(now) or lane._running):
            batch = lane._running[0]
            now = max(now, batch.started_s + batch.expected_s)
            lane.finished(batch, now)
            lane.expire(now)
            continue
        before_s = answers_s(lane, now)
        newcomer = item(
            dice.randint(1, 5),
            now + dice.choice([2, 3, 4, 6, 8, 12]),
            dice.randint(1, levels),
            dice.randrange(shapes),
        )
        if lane.offer(newcomer, now) is not None:
            continue
        after_s = answers_s(lane, now)
        for order, answered_s in before_s.items():
            one = admitted[order]
            if one.priority <= newcomer.priority and answered_s <= one.deadline_s:
                assert after_s[order] <= one.deadline_s, f"{newcomer} made {one} late"
        admitted[newcomer.order] = newcomer


# -- overload costs no throughput ------------------------------------------------------------------


class Day:
    """Arrivals at random times with random patience, on a servable of known cost; then what became of them.

    A batch takes what was predicted, give or take the jitter.
    """

    def __init__(
        self,
        lane: Queue,
        *,
        per_s: float,
        patience_s: tuple[float, float],
        jitter: float = 0.0,
        arrivals: int = 1200,
    ) -> None:
        self.lane = lane
        self.jitter = jitter
        self.answered = self.late = self.expired = self.refused = 0
        self.now = self.ends_s = 0.0
        self.running: Batch[QueueItem] | None = None
        self.dice = Random(7)
        dice = Random(8)
        arrives_s = 0.0
        for _ in range(arrivals):
            arrives_s += dice.expovariate(per_s)
            self._run_until(arrives_s)
            self.now = arrives_s
            self.expired += len(lane.expire(self.now))
            wish = item(deadline_s=self.now + dice.uniform(*patience_s))
            self.refused += lane.offer(wish, self.now) is not None
            self._start()
        self._run_until(float("inf"))
        self.answered_per_s = self.answered / self.now

    def _start(self) -> None:
        if self.running is None:
            self.running = self.lane.take(self.now)
            if self.running is not None:
                surprise = self.dice.uniform(1.0 - self.jitter, 1.0 + self.jitter)
                self.ends_s = self.now + surprise * self.running.expected_s

    def _run_until(self, time_s: float) -> None:
        while self.running is not None and self.ends_s <= time_s:
            batch, self.running, self.now = self.running, None, self.ends_s
            for one in self.lane.finished(batch, self.now):
                in_time = self.now <= one.deadline_s
                self.answered += in_time
                self.late += not in_time
            self.expired += len(self.lane.expire(self.now))
            self._start()


PATIENCE_S = pytest.mark.parametrize(
    "patience_s", [(0.01, 0.01), (0.005, 0.02)], ids=["same", "mixed"]
)
COSTS_S = pytest.mark.parametrize(
    "costs_s", [(1e-3, 1e-5), (1e-4, 1e-4)], ids=["per_batch", "per_row"]
)


def capacity_per_s(costs_s: tuple[float, float]) -> float:
    return 64 / (costs_s[0] + costs_s[1] * 64)


@PATIENCE_S
@COSTS_S
@pytest.mark.parametrize("load", [1.2, 4.0])
def test_overload_costs_no_throughput_and_nobody_is_let_in_for_nothing(
    load: float, costs_s: tuple[float, float], patience_s: tuple[float, float]
) -> None:
    """Requests that cannot be served are refused at once; those let in are answered, in batches that stay full."""
    capacity = capacity_per_s(costs_s)
    day = Day(queue(*costs_s), per_s=load * capacity, patience_s=patience_s)
    assert day.answered_per_s > 0.85 * capacity
    assert day.late + day.expired <= 0.02 * day.answered
    assert day.answered + day.late + day.expired + day.refused == 1200


@PATIENCE_S
@COSTS_S
def test_a_model_that_is_not_quite_as_predicted_costs_little_throughput(
    costs_s: tuple[float, float], patience_s: tuple[float, float]
) -> None:
    capacity = capacity_per_s(costs_s)
    day = Day(queue(*costs_s), per_s=4.0 * capacity, patience_s=patience_s, jitter=0.1)
    assert day.answered_per_s > 0.7 * capacity
    assert day.late + day.expired <= 0.2 * day.answered


def test_below_capacity_everybody_is_answered() -> None:
    day = Day(queue(1e-3, 1e-5), per_s=30_000, patience_s=(0.01, 0.02))
    assert (day.answered, day.refused) == (1200, 0)
