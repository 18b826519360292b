"""Keeps the workers of one instance running: starts every seat's worker, restarts the dead, lets all drain in the end.

It must never touch a prediction: the data ports belong to the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import ModelStatus
from gateway.settings import GatewaySettings
from gateway.supervisor.channel import ChannelClosedError, Handler
from gateway.supervisor.merge import Family
from gateway.supervisor.orphans import Orphanage
from gateway.supervisor.seat import END_MARGIN_S, LOAD_TIMEOUT_S, Listeners, Seat
from gateway.supervisor.spokesman import Spokesman
from gateway.terminal import WRONG_START

logger = logging.getLogger("headrace.supervisor")

HEARTBEAT_S = 2.0


class StartError(Exception):
    """The instance cannot come up, in words for the person who starts it."""


class Supervisor:
    """The workers of an instance; its ``spokesman`` fills the port ``Instance``."""

    def __init__(
        self,
        settings: GatewaySettings,
        version: str,
        listeners: Sequence[Listeners],
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._version = version
        self._say = say
        self.seats = [Seat(index, own, self._handler(index)) for index, own in enumerate(listeners)]
        self._orphans = Orphanage(asyncio.get_running_loop(), lambda: self.seats)
        self._keepers: list[asyncio.Task[None]] = []
        self._complaint: str | None = None  # the first; workers that start alike fail alike
        self._loaded = [asyncio.Event() for _ in self.seats]
        self._may_open = asyncio.Event()
        self._opened = [asyncio.Event() for _ in self.seats]
        self._rounds: list[asyncio.Task[None]] = []
        self.spokesman = Spokesman(self.seats, self._orphans, settings, version)
        self._end = asyncio.Event()
        self.was_clean = True

    @property
    def stopping(self) -> bool:
        """Whether the end has begun: nobody is started any more."""
        return self._end.is_set()

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> list[ModelStatus]:
        """Workers loaded, then ports opened; the index. Raises ``StartError`` when a worker cannot start."""
        self._keepers = [asyncio.create_task(self._keep(seat)) for seat in self.seats]
        await self._all(self._loaded)
        self._may_open.set()
        await self._all(self._opened)
        self._rounds = [asyncio.create_task(self._beat(seat)) for seat in self.seats]
        if self._settings.repository.control == "poll":
            self._rounds.append(asyncio.create_task(self._poll()))
        async with self.spokesman.change:
            await self.spokesman.note_what_is_served()
        self.spokesman.has_started = True
        return await self.spokesman.index()

    async def _all(self, events: list[asyncio.Event]) -> None:
        waiting = asyncio.create_task(_wait_for_all(events))
        await asyncio.wait((waiting, *self._keepers), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return
        waiting.cancel()
        raise StartError(self._complaint or "stopped while starting")

    async def _keep(self, seat: Seat) -> None:
        """Keep one seat filled until the instance stops."""
        while not self.stopping:
            try:
                code: int | None = await self._live(seat)
            except Exception:
                logger.exception("worker %d could not be looked after", seat.index)
                seat.kill()
                code = None
            was_open = self._opened[seat.index].is_set()
            self.spokesman.bury(seat)
            lived_s = seat.ended()
            if self.stopping:
                return
            if code == WRONG_START and not was_open:
                self._complaint = (
                    self._complaint or seat.complaint or f"worker {seat.index} could not start"
                )
                return
            if seat.complaint:
                logger.error("worker %d: %s", seat.index, seat.complaint)
            self._orphans.watch(seat)
            delay_s = seat.restarts.delay_s(lived_s)
            logger.error(
                "worker %d ended (%s); it is started again in %.2f s",
                seat.index,
                _how_it_ended(code),
                delay_s,
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), delay_s)

    async def _live(self, seat: Seat) -> int:
        """One life of a worker, from its start to its exit code."""
        boot = {
            "settings": self._settings,
            "version": self._version,
            "serve": self.spokesman.served,
        }
        listening = await seat.start()
        process = seat.process
        assert process is not None
        if self.stopping:  # since before it could be told
            process.kill()
        is_wrong = False
        try:
            await seat.load(boot)
            self._loaded[seat.index].set()
            await self._may_open.wait()
            async with self.spokesman.change:  # nothing may change between catching up and opening
                if self.spokesman.served is not None:
                    await seat.ask("catch_up", self.spokesman.served, timeout_s=LOAD_TIMEOUT_S)
                self._orphans.leave(seat)
                self.spokesman.addresses.update(await seat.open())
            self._opened[seat.index].set()
            for other in self.seats:
                if other.restarts.count and not other.serving:
                    self._orphans.watch(other)  # while nobody served, nobody looked at its sockets
            if seat.restarts.count:
                logger.warning("worker %d serves again", seat.index)
        except HeadraceError as error:
            seat.complaint = error.message
            process.terminate()  # it may be about to end by itself: then either may come first
            is_wrong = error.code is ErrorCode.INVALID_ARGUMENT
        except ChannelClosedError:
            pass  # its end says more
        except TimeoutError:
            seat.complaint = "it did not answer in time, and was killed"
            process.kill()
        code = await process.wait()
        listening.cancel()
        return WRONG_START if is_wrong else code

    async def _beat(self, seat: Seat) -> None:
        """Collect a worker's metrics now and then: they must outlive it, and silence is a sign."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                if seat.serving:
                    await self.spokesman.listen(seat)
            except Exception:
                logger.exception("listening to worker %d failed", seat.index)

    async def _poll(self) -> None:
        """Let everybody look at the folder now and then."""
        while True:
            await asyncio.sleep(self._settings.repository.poll_interval_s)
            try:
                await self.spokesman.refresh()
            except HeadraceError as error:
                logger.warning("looking at the repository failed: %s", error.message)
            except Exception:  # the next look may go better; without this there would be none
                logger.exception("looking at the repository failed")

    async def stop(self, force: asyncio.Event) -> bool:
        """Every worker drains; True when all calls inside were answered. ``force`` skips the waiting."""
        self.spokesman.stopping = True
        self._end.set()
        for task in self._rounds:
            task.cancel()
        drain = self._settings.drain
        for seat in self.seats:
            if seat.leaving or not seat.serving:
                self._orphans.give_up(seat)  # while the others still answer
        for seat in self.seats:
            seat.tell("stop")
        forcing = asyncio.create_task(self._pass_on(force))
        limit_s = drain.delay_s + drain.timeout_s + END_MARGIN_S
        living = [keeper for keeper in self._keepers if not keeper.done()]
        if living:
            _, late = await asyncio.wait(living, timeout=limit_s)
            if late:
                self.was_clean = False
                for seat in self.seats:
                    seat.kill()
                await asyncio.wait(late, timeout=END_MARGIN_S)
        forcing.cancel()
        for seat in self.seats:
            self._orphans.leave(seat)
            seat.close_listeners()
        return self.was_clean

    async def abandon(self) -> None:
        """Nobody was served yet: end every worker without ceremony."""
        self.spokesman.stopping = True
        self._end.set()
        for seat in self.seats:
            seat.kill()
        living = [keeper for keeper in self._keepers if not keeper.done()]
        if living:
            await asyncio.wait(living, timeout=END_MARGIN_S)

    async def _pass_on(self, force: asyncio.Event) -> None:
        await force.wait()
        for seat in self.seats:
            seat.tell("force")
            if not seat.serving:
                seat.kill()  # it is loading: nobody waits for it

    # -- what workers say -------------------------------------------------------------------------

    def _handler(self, index: int) -> Handler:
        return partial(self._hear, index)

    async def _hear(self, index: int, method: str, value: Any) -> Any:
        if method == "say":
            if index == 0 and not self._opened[0].is_set():
                self._say(value)
        elif method == "closed":
            self.seats[index].close_listeners()
        elif method == "leaving":
            self.seats[index].leaving = True
            if self.stopping:  # it had not been told yet
                self._orphans.give_up(self.seats[index])
            else:
                self._orphans.watch(self.seats[index])
        elif method == "stopped":
            self.was_clean = self.was_clean and bool(value)
        elif method == "metrics":
            self.seats[index].families = msgspec.convert(value, list[Family])
        elif method == "repository_index":
            return await self.spokesman.index()
        elif method == "repository_load":
            await self.spokesman.load(value)
        elif method == "repository_unload":
            await self.spokesman.unload(value)
        elif method == "statistics":
            return await self.spokesman.statistics(*value)
        else:
            raise HeadraceError(ErrorCode.UNIMPLEMENTED, f"no such control call: {method}")
        return None


async def _wait_for_all(events: Sequence[asyncio.Event]) -> None:
    for one in events:
        await one.wait()


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "for a reason that the log shows above"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
