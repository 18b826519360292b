"""Plays one day: the gateway's own stack between simulated callers and simulated models.

Decides nothing but the order of construction. Loop, clock, workers and models are invented; everything else is what
``gateway/app.py`` builds for the real process.
"""

from __future__ import annotations

import logging
from collections import Counter
from itertools import count
from random import Random

from gateway.core.admission import AdmissionLimits
from gateway.messages import ModelStatus
from gateway.pipeline.lane import Worker
from gateway.serving import Serving
from gateway.settings import GatewaySettings
from tests.sim.crowd import Crowd
from tests.sim.day_book import DayBook
from tests.sim.lane_book import LaneBook
from tests.sim.metrics_check import exposition_problem, metrics_problem
from tests.sim.plans import Day, Storm
from tests.sim.records import History
from tests.sim.scripted_model import ScriptedModel, load
from tests.sim.virtual_loop import VirtualLoop
from tests.sim.virtual_worker import RunTime, VirtualWorker

MAX_TURNS = 2_000_000
BROKEN_MODEL = "broken"
"""A model of the repository that could not be loaded."""


class WrongDayError(AssertionError):
    """The gateway broke a rule; the message says how to see it again."""


class Simulation:
    """One day. ``play`` it once."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self.loop = loop = VirtualLoop(
            start_s=day.starts_s,
            callback_cost_s=day.callback_cost_s,
            timer_resolution_s=day.timer_resolution_s,
            clock_read_s=day.clock_read_s,
        )
        self.history = History(day.starts_s)
        self.book = DayBook(day, loop, self.history)
        self._run_time = RunTime(loop)
        backends = [
            ScriptedModel(plan, self._dice("model", at), self._run_time, self._day_s)
            for at, plan in enumerate(day.models)
        ]
        self.workers: list[VirtualWorker] = []
        self.serving = self.book.serving = Serving(
            [load(plan, backend) for plan, backend in zip(day.models, backends, strict=True)],
            [
                *(ModelStatus(plan.name, plan.version, "READY", "") for plan in day.models),
                ModelStatus(BROKEN_MODEL, "", "UNAVAILABLE", "it is broken"),
            ],
            GatewaySettings(admission=AdmissionLimits(day.max_requests, day.max_bytes)),
            loop=loop,
            clock=loop.clock,
            make_worker=self._make_worker,
            thread_clock=self._run_time.thread_clock if day.has_thread_clock else None,
        )
        self._keep_books(backends)
        numbers = count(1)
        self.crowds = [
            Crowd(plan, day.models[plan.target], self._dice("crowd", at), self.book, loop, numbers)
            for at, plan in enumerate(day.traffic)
        ]

    def _dice(self, whose: str, at: int) -> Random:
        return Random(f"{self.day.seed} {whose} {at}")

    def _day_s(self) -> float:
        return self.loop.now_s - self.day.starts_s

    def _make_worker(self, name: str, threads: int) -> Worker:
        worker = VirtualWorker(self.loop, self._run_time, threads, self.day.hand_over_s)
        self.workers.append(worker)
        return worker

    def _keep_books(self, backends: list[ScriptedModel]) -> None:
        lanes = {(one.name, one.version): lane for one, lane in self.serving.lanes.items()}
        for backend, worker, meters in zip(
            backends, self.workers, self.serving.metrics.lanes, strict=True
        ):
            plan = backend.plan
            keeper = LaneBook(plan, self.book.calls, self.loop, worker, self.history)
            keeper.lane = lanes[plan.name, plan.version]
            keeper.meters = meters
            backend.witness = worker.witness = keeper
            self.book.lanes.append(keeper)

    def play(self) -> Simulation:
        """Run until nothing will happen any more. Raises ``WrongDayError`` at the end of the first wrong turn."""
        loop, book, day = self.loop, self.book, self.day
        for crowd in self.crowds:
            crowd.arrive()
        for storm in day.storms:
            self._expect(storm)
        if day.closes_s is not None:
            loop.call_at(loop.now_s + day.closes_s, self._close)
        with _ContainedFailures() as contained:
            while self._turn(contained):
                book.check_turn()
                if self.history.problem or loop.turn > MAX_TURNS:
                    break
        if loop.turn > MAX_TURNS:
            book.wrong(f"no end after {MAX_TURNS} turns")
        self._check_end(contained)
        if self.history.problem:
            raise WrongDayError(self._story())
        return self

    def _turn(self, contained: _ContainedFailures) -> bool:
        try:
            return self.loop.run_turn()
        except Exception as error:  # noqa: BLE001  a real loop would log it and go on
            self.book.wrong(f"{type(error).__name__} reached the loop: {error}")
            contained.unexpected.append(repr(error))
            return True

    def _expect(self, storm: Storm) -> None:
        def breaks_loose() -> None:
            self.history.note(self.loop.now_s, "storm", storm.share)
            for crowd in self.crowds:
                crowd.storm(storm.share)

        self.loop.call_at(self.loop.now_s + storm.at_s, breaks_loose)

    def _close(self) -> None:
        self.history.note(self.loop.now_s, "close")
        self.book.closed = True
        self.serving.close()

    def _check_end(self, contained: _ContainedFailures) -> None:
        if self.history.problem:
            return
        book = self.book
        book.check_turn()
        book.check_end()
        if contained.unexpected:
            book.wrong(f"the gateway logged {contained.unexpected[0]}")
        broken = sum(crowd.broken for crowd in self.crowds)
        if contained.expected != broken:
            book.wrong(f"{broken} clients broke, the gateway logged {contained.expected}")
        reached: Counter[str] = Counter()
        for lane in book.lanes:
            records = [one for one in book.calls.values() if one.lane_name == lane.name]
            outcomes = Counter(one.outcome for one in records)
            unclear = sum(one.cancelled_after_outcome for one in records)
            reached += outcomes
            problem = metrics_problem(lane, outcomes, unclear)
            if problem:
                book.wrong(f"metrics of {lane.name}: {problem}")
        problem = exposition_problem(self.serving, reached)
        if problem:
            book.wrong(f"metrics: {problem}")
        self.serving.close_workers()

    def _story(self) -> str:
        day = self.day
        replay = ""
        if day.size:
            variables = f"SIM_SEED={day.seed} SIM_SIZE={day.size}"
            replay = f"its whole trace: {variables} python -m pytest tests/sim -k test_seed -s\n"
        tail = "\n".join(self.history.lines(self.history.entries[-40:]))
        return f"seed {day.seed}: {self.history.problem}\n{replay}{day}\n...\n{tail}"


class _ContainedFailures(logging.Handler):
    """What the gateway logs instead of raising: only clients that break by plan may appear."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.expected = 0
        self.unexpected: list[str] = []
        self._logger = logging.getLogger("headrace")

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if type(error).__name__ == "BrokenClientError":
            self.expected += 1
        else:
            self.unexpected.append(f"{record.getMessage()} ({error!r})")

    def __enter__(self) -> _ContainedFailures:
        self._logger.addHandler(self)
        self._was_propagating = self._logger.propagate
        self._logger.propagate = False
        return self

    def __exit__(self, *exception: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._was_propagating
