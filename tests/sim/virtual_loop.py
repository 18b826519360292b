"""An event loop on invented time.

Decides only the order in which callbacks run: turn by turn as asyncio's loop does, timers by due time, ties by the
order in which they were armed. It must never read a real clock, sleep, or draw a random number; one run is like any
other. Each callback costs a little time, so that nothing happens in zero time and a loop that spins gets somewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

Callback = Callable[[], None]


class Handle:
    """A callback that can be taken back."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualLoop:
    """Fills the port ``Loop`` of the lanes, and is their clock.

    ``timer_resolution_s`` rounds the delays of timers as libuv does (whole milliseconds there), to both sides.
    ``clock_read_s`` passes with every reading of the clock, so that two readings differ as they do in the world.
    """

    def __init__(
        self,
        *,
        start_s: float = 50_000.0,
        callback_cost_s: float = 2e-6,
        timer_resolution_s: float = 0.0,
        clock_read_s: float = 0.0,
    ) -> None:
        self.now_s = start_s
        self.turn = 0
        self.turn_started_s = start_s
        self.timer_resolution_s = timer_resolution_s
        self._callback_cost_s = callback_cost_s
        self._clock_read_s = clock_read_s
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._armed = 0

    def clock(self) -> float:
        """What the gateway reads. Observers look at ``now_s``, which moves nothing."""
        self.now_s += self._clock_read_s
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Time that a callback spends: a model that runs on the loop, an answer being written."""
        self.now_s += seconds

    def call_soon(self, callback: Callback, /) -> Handle:
        """Run in the next turn."""
        handle = Handle(callback)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callback, /) -> Handle:
        """Run after ``delay``, as exactly as the timers of this loop are."""
        resolution_s = self.timer_resolution_s
        if resolution_s:
            delay = round(delay / resolution_s) * resolution_s
        return self.call_at(self.now_s + delay, callback)

    def call_at(self, due_s: float, callback: Callback) -> Handle:
        """Run at ``due_s`` exactly: what the world does does not wait for timers."""
        self._armed += 1
        handle = Handle(callback)
        heappush(self._timers, (due_s, self._armed, handle))
        return handle

    def run_turn(self) -> bool:
        """Wait for the next thing to do and do all that is due; False when nothing will ever be due."""
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0][2].callback is None:
                heappop(timers)
            if not timers:
                return False
            self.now_s = max(self.now_s, timers[0][0])
        self.turn += 1
        self.turn_started_s = now_s = self.now_s
        while timers and timers[0][0] <= now_s:
            ready.append(heappop(timers)[2])
        for _ in range(len(ready)):
            callback = ready.popleft().callback
            if callback is not None:
                self.now_s += self._callback_cost_s
                callback()
        return True

    @property
    def about_to_sleep(self) -> bool:
        """Nothing more to do at this moment."""
        return not self._ready

    def __repr__(self) -> str:
        return (
            f"VirtualLoop({self.now_s:.6f}, {len(self._ready)} ready, {len(self._timers)} timers)"
        )


class ProcessLoop:
    """The loop as one process has it: what it had planned goes with it when it dies."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.alive = True

    @property
    def now_s(self) -> float:
        return self._loop.now_s

    def call_soon(self, callback: Callback, /) -> Handle:
        return self._loop.call_soon(lambda: callback() if self.alive else None)

    def call_later(self, delay: float, callback: Callback, /) -> Handle:
        return self._loop.call_later(delay, lambda: callback() if self.alive else None)

    def call_at(self, due_s: float, callback: Callback) -> Handle:
        return self._loop.call_at(due_s, lambda: callback() if self.alive else None)
