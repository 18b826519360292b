"""A connection to one server that is always there or on its way: it comes back after every loss, with growing pauses.

Decides when to connect again. While it is down nothing is sent and nothing waits: whoever asks is refused at once with
the reason. It must never give up while it is open, and never say "any key may have changed" before everybody who waited
on the lost connection was told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from featurecache.errors import SourceError
from featurecache.sources.dialing import Address, Login, Session, dial
from featurecache.sources.ports import Invalidated
from featurecache.sources.resp import RepliesDone
from featurecache.sources.source_limits import SourceLimits

logger = logging.getLogger("headrace.features")

FindAddress = Callable[[], Awaitable[Address]]
"""Asked before every connection; raises ``SourceError`` when there is none."""


def always(address: Address) -> FindAddress:
    """For a server that does not move."""

    async def find() -> Address:
        return address

    return find


class NodeLink:
    """One server, wherever it is now."""

    def __init__(
        self,
        find_address: FindAddress,
        login: Login,
        limits: SourceLimits,
        name: str,
        random_unit: Callable[[], float],
    ) -> None:
        self.name = name
        self.on_invalidated: Invalidated | None = None
        self.on_change: Callable[[], None] | None = None
        """Called after each connection made, and after each one lost or not got."""
        self._find_address = find_address
        self._login = login
        self._limits = limits
        self._random_unit = random_unit
        self._session: Session | None = None
        self._tracks = False
        self._why_down = SourceError(f"{name}: not started")
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._told_down = False

    # -- state ------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether commands would be sent now."""
        return self._session is not None and self._session.connection.lost is None

    @property
    def tracks(self) -> bool:
        """Whether the server tells which tracked keys change."""
        return self._tracks and self.is_up

    @property
    def waiting(self) -> int:
        """How many callers wait for replies."""
        return self._session.connection.waiting if self._session is not None else 0

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to connect; returns after the first try."""
        if self._task is not None or self._closed:
            return
        tried = asyncio.Event()
        self._task = asyncio.create_task(self._stay_connected(tried), name=f"link to {self.name}")
        await tried.wait()

    async def close(self) -> None:
        """Who still waits is told; afterwards nothing of this link runs."""
        self._closed = True
        self._why_down = SourceError(f"{self.name}: closed")
        if self._session is not None:
            self._session.connection.abort(self._why_down)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def submit(self, commands: bytes, count: int, done: RepliesDone) -> None:
        """Send packed commands; ``done`` gets their ``count`` replies, or the reason why there are none, later."""
        session = self._session
        if session is None or session.connection.lost is not None:
            self.refuse(done, self._why_down)
        elif session.connection.is_full:
            most = self._limits.max_waiting_fetches
            sentence = f"{self.name}: too much waits already ({most} reads, or unsent bytes)"
            self.refuse(done, SourceError(sentence))
        else:
            session.connection.submit(commands, count, done)

    def refuse(self, done: Callable[[None, SourceError], None], error: SourceError) -> None:
        """Tell ``done`` in the next turn of the loop."""
        asyncio.get_running_loop().call_soon(done, None, SourceError(*error.args))

    def distrust_tracking(self) -> None:
        """The server forgot that it should track: copies live by their time alone, until the next connection."""
        if self._tracks:
            self._tracks = False
            logger.warning("%s stopped telling which rows change", self.name)
            self._tell_all_may_have_changed()

    # -- connecting -------------------------------------------------------------------------------

    async def _stay_connected(self, tried: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        pause_s = self._limits.backoff_min_s
        while True:
            try:
                await self._connect()
                tried.set()
                up_s = loop.time()
                await self._lost.wait()
                if loop.time() - up_s > self._limits.backoff_max_s:
                    pause_s = self._limits.backoff_min_s
            except Exception as error:
                if not isinstance(error, SourceError):  # nobody has thought of it: still no end
                    logger.exception("connecting to %s failed", self.name)
                    error = SourceError(f"{self.name}: {error!r}")
                self._note_down(error)
                self._tell_change()
            tried.set()
            await asyncio.sleep(pause_s * (1 - self._random_unit() / 2))
            pause_s = min(pause_s * 2, self._limits.backoff_max_s)

    async def _connect(self) -> None:
        self._lost.clear()
        session = await dial(
            await self._find_address(),
            self._login,
            self._limits,
            self.name,
            on_push=self._on_push,
            on_lost=self._on_lost,
        )
        if session.connection.lost is not None:  # lost in the same turn in which it was made
            raise session.connection.lost
        self._session = session
        self._tracks = session.tracks
        if self._told_down:
            logger.warning("%s is back", self.name)
        self._told_down = False
        if self._login.track and not session.tracks:
            logger.info("%s does not track: copies live by their time alone", self.name)
        self._tell_change()

    def _on_lost(self, error: SourceError) -> None:
        if self._session is None:  # during the handshake: dial raises it
            return
        self._session = None
        tracked, self._tracks = self._tracks, False
        if not self._closed:
            self._note_down(error)
        self._lost.set()
        if tracked:
            self._tell_all_may_have_changed()
        self._tell_change()

    def _note_down(self, error: SourceError) -> None:
        self._why_down = error
        if not self._told_down:
            self._told_down = True
            logger.warning("%s", error)

    # -- telling ----------------------------------------------------------------------------------

    def _on_push(self, frame: list[Any]) -> None:
        if frame and frame[0] == b"invalidate" and self.on_invalidated is not None:
            self.on_invalidated(frame[1])

    def _tell_all_may_have_changed(self) -> None:
        if self.on_invalidated is not None:
            self.on_invalidated(None)

    def _tell_change(self) -> None:
        if self.on_change is not None:
            self.on_change()
