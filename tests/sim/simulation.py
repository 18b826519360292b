"""Plays one day: the gateway's own stack between simulated callers, models and operators.

Decides nothing but the order of construction. Loop, clock, threads, models, files, sockets and processes are invented;
everything else is what ``gateway/app.py`` and ``gateway/supervised_app.py`` build for the real processes.
"""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random

from gateway.supervisor.merge import families_of
from tests.sim.crowd import Crowd
from tests.sim.instance import Instance
from tests.sim.lane_book import LaneBook
from tests.sim.metrics_check import exposition_problem, metrics_problem
from tests.sim.operator import Control, Operator
from tests.sim.plans import Day, Storm
from tests.sim.process import Process, World

MAX_TURNS = 400_000
PATIENCE_S = 300.0
"""A dead worker must be back this long after the last call, at the latest."""
EXPECTED_LOGGERS = ("headrace.supervisor", "headrace.repository")
"""Deaths and failed loads are told there, and both are planned."""


class WrongDayError(AssertionError):
    """The gateway broke a rule; the message says how to see it again."""


class Alone:
    """One process without a supervisor."""

    def __init__(self, world: World) -> None:
        self.process = Process(world, "alone")
        self.process.load(None)

    def reach(self, crowd: Crowd, connection: int, then: Callable[[Process | None], None]) -> None:
        then(self.process)

    def refused(self, number: int) -> None:
        self.process.world.wrong(f"call {number} got no connection")

    def serving(self) -> list[Process]:
        return [self.process]

    async def act(self, call: str, model: str) -> None:
        """A control call."""
        process = self.process
        if call == "load":
            await process.control.load(model)
        else:
            await process.unload(model, process.control.unload)


class Simulation:
    """One day. ``play`` it once."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self.world = world = World(day)
        self.loop, self.history = world.loop, world.history
        self.instance = Instance(world, day.workers) if day.workers else None
        self.alone = None if day.workers else Alone(world)
        self._operator: Operator
        self._done_s: float | None = None
        exchange = self.instance or self.alone
        assert exchange is not None
        numbers = count(1)
        self.crowds = [
            Crowd(
                plan,
                day.models[plan.target],
                Random(f"{day.seed} crowd {at}"),
                world.calls,
                world.loop,
                numbers,
                exchange,
                day.store if day.models[plan.target].name in day.featured else None,
            )
            for at, plan in enumerate(day.traffic)
        ]

    def outcomes(self) -> Counter[str]:
        """How many calls ended in which way."""
        return Counter(record.outcome for record in self.world.calls.values())

    # -- the day ----------------------------------------------------------------------------------

    def play(self) -> Simulation:
        """Run until nothing will happen any more. Raises ``WrongDayError`` at the end of the first wrong turn."""
        loop, world = self.loop, self.world
        gc.freeze()  # what is older than this day need not be searched for what it left behind
        with _ContainedFailures() as contained, world.folder.mounted():
            if self.instance is not None:
                while not self.instance.is_up and self._turn(contained) and not self._is_wrong():
                    pass
            self._plan_the_day()
            while self._turn(contained):
                self._look()
                if self._is_wrong():
                    break
            if loop.turn > MAX_TURNS:
                world.wrong(f"no end after {MAX_TURNS} turns")
            if not self.history.problem:
                self._check_end(contained)
        for view in [one.view for one in world.processes] + [
            one.view for one in (self.instance,) if one is not None
        ]:
            view.abandon()
        if self.history.problem:
            raise WrongDayError(self._story())
        return self

    def _is_wrong(self) -> bool:
        return bool(self.history.problem) or self.loop.turn > MAX_TURNS

    def _plan_the_day(self) -> None:
        loop, day = self.loop, self.day
        began_s = loop.now_s
        if self.world.features is not None:
            self.world.features.store.begin()
        for crowd in self.crowds:
            crowd.arrive()
        for storm in day.storms:
            self._expect(storm)
        if day.closes_s is not None:
            loop.call_at(began_s + day.closes_s, self._close)
        if self.instance is not None:
            for death in day.deaths:
                loop.call_at(began_s + death.at_s, partial(self.instance.kill, death.seat))
        for at_s in day.scrapes:
            loop.call_at(began_s + at_s, self._scrape)
        if self.instance is not None:
            instance = self.instance
            control = Control(
                instance.view,
                instance.act,
                instance.serving,
                lambda: self.world.over or len(instance.serving()) < day.workers,
            )
        else:
            assert self.alone is not None
            view = self.alone.process.view
            control = Control(view, self.alone.act, self.alone.serving, lambda: self.world.over)
        self._operator = Operator(self.world, day.operations, control)
        if self.instance is not None:
            self.instance.on_open = self._operator.check_agreement

    def _turn(self, contained: _ContainedFailures) -> bool:
        try:
            return self.loop.run_turn()
        except Exception as error:  # noqa: BLE001  a real loop would log it and go on
            self.world.wrong(f"{type(error).__name__} reached the loop: {error}")
            contained.unexpected.append(repr(error))
            return True

    def _look(self) -> None:
        """At the end of each turn."""
        for process in self._present():
            process.book.check_turn()
        if self.instance is not None:
            self.instance.check_turn()
        is_over = self.world.over or not self._operator.is_done
        if not is_over and all(crowd.is_done for crowd in self.crowds):
            self._evening()

    def _evening(self) -> None:
        """Every call has ended: wait for the dead to be back and the store to be trusted, then close."""
        instance, now_s = self.instance, self.loop.now_s
        features = self.world.features
        if features is not None and not features.is_trusted_again(self._present()):
            return
        if instance is None:
            self.world.over = True
            return
        self._done_s = now_s if self._done_s is None else self._done_s
        if len(instance.serving()) == self.day.workers:
            self._operator.check_agreement()
            self._close()
        elif now_s - self._done_s > PATIENCE_S:
            self.world.wrong("a worker that died never came back")

    def _present(self) -> list[Process]:
        if self.instance is None:
            return self.world.processes
        return [one for one in self.world.processes if one.alive and one.is_loaded]

    def _expect(self, storm: Storm) -> None:
        def breaks_loose() -> None:
            self.history.note(self.loop.now_s, "storm", storm.share)
            for crowd in self.crowds:
                crowd.storm(storm.share)

        self.loop.call_at(self.loop.now_s + storm.at_s, breaks_loose)

    def _scrape(self) -> None:
        if self.instance is not None:
            self.instance.view.start(self.instance.scrape())
            return
        assert self.alone is not None
        process = self.alone.process
        problem = process.roster.counters.problem(families_of(process.serving.metrics))
        if problem:
            self.world.wrong(f"metrics: {problem}")

    def _close(self) -> None:
        if self.instance is None:
            assert self.alone is not None
            self.alone.process.close()
        elif not self.world.over:
            self.world.over = True
            self.instance.view.start(self.instance.stop())

    # -- the end ----------------------------------------------------------------------------------

    def _check_end(self, contained: _ContainedFailures) -> None:
        world = self.world
        waiting = [record.number for record in world.calls.values() if record.inside]
        waiting += [number for crowd in self.crowds for number in crowd.calls]
        if waiting:
            world.wrong(f"calls {waiting[:20]} never ended")
        if self.alone is not None:
            self.alone.process.check_end(is_dry=True)
        if contained.unexpected:
            world.wrong(f"the gateway logged {contained.unexpected[0]}")
        broken = sum(crowd.broken for crowd in self.crowds)
        if contained.expected != broken:
            world.wrong(f"{broken} clients broke, the gateway logged {contained.expected}")
        for process in world.processes:
            if self.alone is not None or process.ended:
                self._check_metrics(process)
                process.roster.check_left()
        if self.alone is not None:
            self.alone.process.serving.close_workers()

    def _check_metrics(self, process: Process) -> None:
        """What one process has counted."""
        reached: Counter[str] = Counter()
        versions: dict[str, list[LaneBook]] = {}
        for lane in (*process.roster.past, *process.roster.lanes):
            versions.setdefault(lane.name, []).append(lane)
        for name, lanes in versions.items():
            records = [one for one in self.world.calls.values() if one.lane_name == name]
            outcomes = Counter(one.outcome for one in records)
            unclear = sum(one.cancelled_after_outcome for one in records)
            reached += outcomes
            problem = metrics_problem(lanes, outcomes, unclear)
            if problem:
                self.world.wrong(f"metrics of {name}: {problem}")
        problem = exposition_problem(process.serving, reached)
        if problem:
            self.world.wrong(f"metrics: {problem}")

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
        elif record.name not in EXPECTED_LOGGERS or error is not None:
            self.unexpected.append(f"{record.getMessage()} ({error!r})")

    def __enter__(self) -> _ContainedFailures:
        self._logger.addHandler(self)
        self._was_propagating = self._logger.propagate
        self._logger.propagate = False
        return self

    def __exit__(self, *exception: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._was_propagating
