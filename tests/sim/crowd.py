"""Callers: when they call, what they ask for, and how they leave.

Decides all of it by the dice of its plan, and never by anything that the gateway keeps to itself. A crowd reacts to
the end of its calls as clients do: it asks again, hangs up, or breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import Protocol

from gateway.messages import PredictRequest
from tests.sim.client import SimCall
from tests.sim.feature_plans import StorePlan
from tests.sim.feature_rows import EMPTY, UNKNOWN
from tests.sim.plans import ModelPlan, TrafficPlan
from tests.sim.process import Process
from tests.sim.records import CallRecord
from tests.sim.rows import INVALID, POISON, make_rows
from tests.sim.virtual_loop import VirtualLoop

FRAMING_BYTES = 100
RETRY_S = 1e-4
"""A client that was refused waits this long, at least."""


class Numbers(Protocol):
    """Hands out the numbers of calls, in the order in which they are asked for."""

    def __next__(self) -> int: ...


class Exchange(Protocol):
    """Knows which process a connection leads to."""

    def reach(
        self, crowd: Crowd, connection: int, then: Callable[[Process | None], None]
    ) -> None: ...

    def refused(self, number: int) -> None:
        """A call got no connection: is that right?"""
        ...


class Crowd:
    """The callers of one ``TrafficPlan``."""

    def __init__(
        self,
        plan: TrafficPlan,
        model: ModelPlan,
        dice: Random,
        calls: dict[int, CallRecord],
        loop: VirtualLoop,
        numbers: Numbers,
        exchange: Exchange,
        store: StorePlan | None = None,
    ) -> None:
        """``store``: where the rows of entities lie that these callers send; None when they send none."""
        self.calls: dict[int, SimCall] = {}
        """Those inside the gateway."""
        self.broken = 0
        self._plan = plan
        self._model = model
        self._dice = dice
        self._all_calls = calls
        self._loop = loop
        self._numbers = numbers
        self._exchange = exchange
        self._store = store
        self._feature_dice = Random(dice.random()) if store is not None else dice
        self._left = plan.calls
        self._planned = 0
        self._connections: dict[int, int] = {}

    def arrive(self) -> None:
        """Set the first arrivals."""
        plan = self._plan
        starts_s = self._loop.now_s + plan.starts_s
        if plan.rate_per_s:
            self._plan_at(starts_s, self._burst)
        for _ in range(plan.clients):
            think_s = self._between(plan.think.low_s, plan.think.high_s)
            self._plan_at(starts_s + think_s, self._call)

    def _plan_at(self, due_s: float, what: Callable[[], None]) -> None:
        """Somebody will call."""
        self._planned += 1

        def now() -> None:
            self._planned -= 1
            what()

        self._loop.call_at(due_s, now)

    def _burst(self) -> None:
        """Open loop: some calls now, and a date for the next ones."""
        burst = self._dice.randint(1, self._plan.burst)
        for _ in range(burst):
            self._call()
        if self._left > 0:
            # The next calls come as late as this many were early.
            gap_s = self._dice.expovariate(self._plan.rate_per_s / burst)
            self._plan_at(self._loop.now_s + gap_s, self._burst)

    # -- one call ---------------------------------------------------------------------------------

    def _call(self) -> None:
        if self._left <= 0:
            return
        self._left -= 1
        plan, dice = self._plan, self._dice
        call = self._compose()
        number = call.record.number
        self.calls[number] = call
        self._connections[number] = dice.randrange(plan.connections)
        if dice.random() < plan.cancel_chance:
            after_s = self._between(plan.cancel_after.low_s, plan.cancel_after.high_s)
            if after_s < 0.0:  # the caller leaves before its request is complete
                call.go_away(in_a_sweep=False)
                self._forget(call)
                return
            self._loop.call_at(self._loop.now_s + after_s, lambda: call.go_away(in_a_sweep=False))
        uploads = plan.upload_chance > 0 and dice.random() < plan.upload_chance

        def connected(process: Process | None) -> None:
            if call.record.cancelling:
                self._forget(call)
            elif process is None:
                self._exchange.refused(call.record.number)
                call.be_lost()
            elif uploads:
                self._upload(call, process)
            else:
                call.begin(process)

        self._exchange.reach(self, self._connections[number], connected)

    def _upload(self, call: SimCall, process: Process) -> None:
        """A large body: its bytes are reserved while it arrives, and are the request's own afterwards."""
        record, plan, loop = call.record, self._plan, self._loop
        if not process.book.reserve(record.size_bytes):
            self._forget(call)
            return

        def complete() -> None:
            process.book.release(record.size_bytes)
            if record.cancelling:
                self._forget(call)
            elif not process.alive:
                call.be_lost()
            else:
                call.begin(process)

        loop.call_at(loop.now_s + self._between(plan.upload.low_s, plan.upload.high_s), complete)

    def _compose(self) -> SimCall:
        plan, model, dice = self._plan, self._model, self._dice
        number = next(self._numbers)
        wanted_rows = dice.choice(plan.rows)
        width = dice.choice(model.widths)
        inputs = make_rows(number, wanted_rows, width, self._flags(wanted_rows))
        version = dice.choice(plan.versions)
        now_s = self._loop.now_s
        record = CallRecord(
            number,
            inputs,
            rows=wanted_rows,
            width=width,
            priority=dice.choice(plan.priorities),
            deadline_s=self._deadline_s(),
            size_bytes=sum(one.nbytes for one in inputs) + FRAMING_BYTES,
        )
        self._all_calls[number] = record
        if self._store is not None:
            record.entities = self._entities(self._store, wanted_rows)
            record.wants_status = self._feature_dice.random() < self._store.status_chance
        request = PredictRequest(
            model=plan.model,
            version=version,
            request_id="",
            inputs=inputs,
            rows=record.rows,
            outputs=(0, 1),
            deadline_s=record.deadline_s,
            priority=record.priority,
            received_s=now_s,
            size_bytes=record.size_bytes,
        )
        breaks = dice.random() < plan.broken_chance
        return SimCall(
            record, request, self._loop, breaks=breaks, then=self._ended, lost=self._lost
        )

    def _entities(self, store: StorePlan, rows: int) -> list[int]:
        """A few that everybody asks for, others now and then, some that nobody knows, and none."""
        dice, found = self._feature_dice, []
        for _ in range(rows):
            drawn = dice.random()
            if drawn < store.unknown_chance:
                found.append(UNKNOWN + dice.randrange(5))
            elif drawn < store.unknown_chance + store.empty_chance:
                found.append(EMPTY)
            elif dice.random() < 0.7:
                found.append(dice.randrange(min(store.hot, store.entities)))
            else:
                found.append(dice.randrange(store.entities))
        return found

    def _flags(self, rows: int) -> dict[int, int]:
        flags: dict[int, int] = {}
        if self._dice.random() < self._plan.poison_chance:
            flags[self._dice.randrange(rows)] = POISON
        if self._dice.random() < self._plan.invalid_chance:
            flags[self._dice.randrange(rows)] = INVALID
        return flags

    def _deadline_s(self) -> float:
        span = self._dice.choice(self._plan.deadlines)
        if self._dice.random() < self._plan.passed_chance:
            return self._loop.now_s - self._between(0.0, 1e-3)
        if span is None:
            return inf
        return self._loop.now_s + self._between(span.low_s, span.high_s)

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * self._dice.random()

    # -- reactions --------------------------------------------------------------------------------

    def _ended(self, call: SimCall) -> None:
        """The call ended, just now and inside the gateway's sweep."""
        plan, dice = self._plan, self._dice
        connection = self._connections[call.record.number]
        self._forget(call)
        answered = call.record.outcome == "answer"
        swept = call.record.reached_lane and not call.record.cancelling
        if swept and plan.hangup_chance and dice.random() < plan.hangup_chance:
            self._hang_up(connection)
        if not plan.clients:
            return
        if answered and dice.random() < plan.asks_again_at_once:
            self._call()
            return
        pause_s = self._between(plan.think.low_s, plan.think.high_s)
        if not answered:
            pause_s += RETRY_S
        self._plan_at(self._loop.now_s + pause_s, self._call)

    def _lost(self, call: SimCall) -> None:
        """The connection broke, or there was none to be had: try again."""
        self._forget(call)
        if self._plan.clients:
            self._plan_at(self._loop.now_s + RETRY_S, self._call)

    @property
    def is_done(self) -> bool:
        """No call is left, inside or to come."""
        return not self._planned and not self.calls

    def _forget(self, call: SimCall) -> None:
        number = call.record.number
        del self.calls[number], self._connections[number]
        self.broken += call.breaks and call.record.outcome == "answer"

    def _hang_up(self, connection: int) -> None:
        mine = [number for number, other in self._connections.items() if other == connection]
        for number in mine:
            if number in self.calls:
                self.calls[number].go_away(in_a_sweep=True)

    def storm(self, share: float) -> None:
        """Many callers go away at one moment."""
        for call in list(self.calls.values()):
            if self._dice.random() < share:
                call.go_away(in_a_sweep=False)
