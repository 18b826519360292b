"""Rows in this process: for demos, tests and simulated days, with the faults of a real store on request.

Decides when an answer or a change arrives: both travel one line, in the order in which the store made them, half of
``delay_s`` there and half back. It runs on the loop and clock that it is given and nothing else, so that simulated time
will do. It must never read a row later than a change of which it has already told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from featurecache.errors import FeatureError, SourceError
from featurecache.sources.ports import Clock, FetchDone, Invalidated, Loop, Timer
from featurecache.sources.source_limits import MAX_KEYS_OF_A_FETCH, SourceLimits

MAX_ROWS = 1_000_000


class _Fetch:
    """One that waits for its answer."""

    __slots__ = ("done", "keys", "timer", "track")

    def __init__(self, keys: Sequence[bytes], done: FetchDone, track: bool) -> None:
        self.keys = list(keys)
        self.done: FetchDone | None = done  # None: was told
        self.track = track
        self.timer: Timer | None = None


class MemorySource:
    """Fills ``RowSource``. Without ``loop`` and ``clock`` it uses the running event loop and its time."""

    def __init__(
        self,
        limits: SourceLimits | None = None,
        *,
        loop: Loop | None = None,
        clock: Clock | None = None,
        name: str = "memory",
        tracking: bool = True,
    ) -> None:
        self.on_invalidated: Invalidated | None = None
        self.delay_s = 0.0
        """There and back; may be changed at any time, answers stay in order."""
        self._limits = limits or SourceLimits()
        self._given_loop = loop
        self._given_clock = clock
        self._name = name
        self._tracking = tracking
        self._rows: dict[bytes, bytes] = {}
        self._lifetimes: dict[bytes, object] = {}
        self._watched: set[bytes] = set()
        self._waiting: dict[_Fetch, None] = {}
        self._line: deque[Callable[[], None]] = deque()
        self._arrivals: deque[_Fetch] = deque()
        self._connection = 0
        """Counts the connections; what the store says on an old one is lost."""
        self._why_down: str | None = "not started"
        self._hangs = False
        self._started = False
        self._closed = False

    # -- the port ---------------------------------------------------------------------------------

    @property
    def tracks(self) -> bool:
        """Whether changes are told now."""
        return self._tracking and self.is_up

    @property
    def is_up(self) -> bool:
        """Whether a fetch would be sent now."""
        return self._why_down is None

    @property
    def name(self) -> str:
        """For logs and errors."""
        return self._name

    async def start(self) -> None:
        """See ``RowSource``."""
        self.begin()

    def begin(self) -> None:
        """``start`` for callers without coroutines."""
        self._started = True
        if not self._closed and self._why_down == "not started":
            self._why_down = None

    async def close(self) -> None:
        """Fetches still waiting get their error."""
        self._closed = True
        self._go_down("closed")

    def fetch(self, keys: Sequence[bytes], done: FetchDone, *, track: bool) -> None:
        """See ``RowSource``."""
        loop = self._loop
        refusal = self._why_down
        if not 0 < len(keys) <= MAX_KEYS_OF_A_FETCH:
            refusal = f"a fetch has 1 to {MAX_KEYS_OF_A_FETCH} keys, not {len(keys)}"
        elif refusal is None and len(self._waiting) >= self._limits.max_waiting_fetches:
            refusal = f"too much waits already ({len(self._waiting)} reads)"
        if refusal is not None:
            error = self._error(refusal)
            loop.call_soon(lambda: done(None, error))
            return
        fetch = _Fetch(keys, done, track and self._tracking)
        self._waiting[fetch] = None
        late_s = self._clock() + self._limits.read_timeout_s
        fetch.timer = loop.call_at(late_s, lambda: self._late(fetch))
        self._arrivals.append(fetch)
        self._after_half_way(self._arrive)

    # -- rows -------------------------------------------------------------------------------------

    def set(self, key: bytes, row: bytes, ttl_s: float | None = None) -> None:
        """Write a row as another client would; it is gone after ``ttl_s``."""
        if key not in self._rows and len(self._rows) >= MAX_ROWS:
            raise FeatureError(f"{self._name} holds {MAX_ROWS} rows; use a real store for more")
        self._rows[key] = row
        self._lifetimes.pop(key, None)
        self._changed(key)
        if ttl_s is not None:
            lifetime = self._lifetimes[key] = object()

            def expire() -> None:
                if self._lifetimes.get(key) is lifetime:  # not written again since
                    self.delete(key)

            self._loop.call_at(self._clock() + ttl_s, expire)

    def delete(self, key: bytes) -> None:
        """Take a row away."""
        self._lifetimes.pop(key, None)
        if self._rows.pop(key, None) is not None:
            self._changed(key)

    def flush(self) -> None:
        """Take all rows away; who tracks is told that any key may have changed."""
        self._rows.clear()
        self._lifetimes.clear()
        self._watched.clear()
        self._send_change(None)

    def get(self, key: bytes) -> bytes | None:
        """A row as it is now, without delay and faults."""
        return self._rows.get(key)

    def __len__(self) -> int:
        return len(self._rows)

    # -- faults -----------------------------------------------------------------------------------

    def fail(self, reason: str = "the server closed the connection") -> None:
        """The connection breaks, and there is no other until ``heal``."""
        if not self._closed:
            self._go_down(reason)

    def hang(self) -> None:
        """Nothing is answered from now on; the connection is given up after the read timeout of the oldest fetch."""
        self._hangs = True

    def heal(self) -> None:
        """All is well again, at once."""
        self._hangs = False
        if not self._closed and self._started:
            self._why_down = None

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _loop(self) -> Loop:
        return self._given_loop or asyncio.get_running_loop()

    def _clock(self) -> float:
        return self._given_clock() if self._given_clock else asyncio.get_running_loop().time()

    def _after_half_way(self, callback: Callable[[], None]) -> None:
        if self.delay_s > 0:
            self._loop.call_at(self._clock() + self.delay_s / 2, callback)
        else:
            self._loop.call_soon(callback)

    def _arrive(self) -> None:
        """The oldest fetch under way reaches the store, which reads the rows as they are now."""
        fetch = self._arrivals.popleft()
        if self._hangs or fetch.done is None:
            return
        values = [self._rows.get(key) for key in fetch.keys]
        self._send(lambda: self._settle(fetch, values, None))
        if fetch.track:
            self._watched.update(fetch.keys)
            if len(self._watched) > MAX_ROWS:  # as servers do whose table of tracked keys is full
                self._watched.clear()
                self._send_change(None)

    def _send(self, what: Callable[[], None]) -> None:
        """The way back; timers may swap places where delays change, what they bring does not."""
        self._line.append(what)
        self._after_half_way(self._deliver)

    def _deliver(self) -> None:
        self._line.popleft()()

    def _late(self, fetch: _Fetch) -> None:
        if fetch.done is not None:
            self._go_down(f"no reply within {self._limits.read_timeout_s * 1e3:g} ms")
            if (
                not self._hangs and not self._closed
            ):  # it was only slow: the next connection is there
                self._why_down = None

    def _go_down(self, reason: str) -> None:
        was_up, self._why_down = self.is_up, reason
        self._connection += 1
        self._watched.clear()
        for fetch in list(self._waiting):
            self._settle(fetch, None, self._error(reason))
        if was_up and self._tracking:
            self._tell(None)

    def _settle(
        self, fetch: _Fetch, values: list[bytes | None] | None, error: SourceError | None
    ) -> None:
        done, fetch.done = fetch.done, None
        self._waiting.pop(fetch, None)
        if fetch.timer is not None:
            fetch.timer.cancel()
        if done is not None:
            done(values, error)

    def _changed(self, key: bytes) -> None:
        if key in self._watched:
            self._watched.discard(key)
            self._send_change([key])

    def _send_change(self, keys: list[bytes] | None) -> None:
        connection = self._connection
        if self.tracks:
            self._send(lambda: self._tell(keys) if connection == self._connection else None)

    def _tell(self, keys: list[bytes] | None) -> None:
        if self.on_invalidated is not None:
            self.on_invalidated(keys)

    def _error(self, reason: str) -> SourceError:
        return SourceError(f"{self._name}: {reason}")
