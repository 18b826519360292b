"""Keeps the workers of one instance running, and speaks for all of them.

Starts every seat's worker, restarts the dead with back-off, and answers control calls after every worker has acted. It
must never touch a prediction: the data ports belong to the workers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from gateway.core import statistics
from gateway.core.statistics import VersionStatistics
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import ModelStatus
from gateway.settings import GatewaySettings
from gateway.supervisor.channel import ChannelClosedError
from gateway.supervisor.control_mode import refuse_unless_explicit
from gateway.supervisor.merge import (
    Families,
    Family,
    merge_families,
    merge_indexes,
    merge_ready,
    squash,
)
from gateway.supervisor.orphans import Orphanage
from gateway.supervisor.seat import LOAD_TIMEOUT_S, Listeners, Seat

logger = logging.getLogger("headrace.supervisor")

ASK_TIMEOUT_S = 10.0
HEARTBEAT_S = 2.0
HANG_S = 30.0
"""A worker that does not answer for so long has stopped working: it is killed and started anew."""
END_MARGIN_S = 10.0
"""Beyond the drain's own limit, before a worker that does not end is killed."""
WRONG_START = 2
"""Exit code of a worker that could not use its settings or its models."""


class StartError(Exception):
    """The instance cannot come up; the worker has said why."""


class Supervisor:
    """The workers of an instance; fills the port ``Instance``."""

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
        self._started_s = time.monotonic()
        self.seats = [Seat(index, own, self._handler(index)) for index, own in enumerate(listeners)]
        self._orphans = Orphanage(asyncio.get_running_loop(), lambda: self.seats)
        self._keepers: list[asyncio.Task[None]] = []
        self._loaded = [asyncio.Event() for _ in self.seats]
        self._may_open = asyncio.Event()
        self._opened = [asyncio.Event() for _ in self.seats]
        self._change = asyncio.Lock()
        self._rounds: list[asyncio.Task[None]] = []
        self._departed: list[list[Family]] = []
        self._served: dict[str, list[str]] | None = None
        """What a restarted worker must serve: the versions that the others have."""
        self.stopping = False
        self.was_clean = True
        self.addresses: dict[str, str] = {}

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> list[ModelStatus]:
        """Workers loaded, then ports opened; the index. Raises ``StartError`` when a worker cannot start."""
        self._keepers = [asyncio.create_task(self._keep(seat)) for seat in self.seats]
        await self._all(self._loaded)
        self._may_open.set()
        await self._all(self._opened)
        self._rounds = [asyncio.create_task(self._beat())]
        if self._settings.repository.control == "poll":
            self._rounds.append(asyncio.create_task(self._poll()))
        return await self.index()

    async def _all(self, events: list[asyncio.Event]) -> None:
        waiting = asyncio.create_task(_wait_for_all(events))
        await asyncio.wait((waiting, *self._keepers), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return
        waiting.cancel()
        for keeper in self._keepers:
            if keeper.done():
                keeper.result()
        raise StartError("stopped while starting")

    async def _keep(self, seat: Seat) -> None:
        """Keep one seat filled until the instance stops."""
        while not self.stopping:
            code = await self._live(seat)
            was_open = self._opened[seat.index].is_set()
            if seat.families:
                self._departed = squash([*self._departed, seat.families])
            lived_s = seat.ended()
            if self.stopping:
                return
            if code == WRONG_START and not was_open:
                raise StartError(f"worker {seat.index} could not start")
            self._orphans.watch(seat)
            delay_s = seat.restarts.delay_s(lived_s)
            logger.error(
                "worker %d ended with %s; it is started again in %.2f s", seat.index, code, delay_s
            )
            await asyncio.sleep(delay_s)

    async def _live(self, seat: Seat) -> int:
        """One life of a worker, from its start to its exit code."""
        boot = {
            "settings": msgspec.to_builtins(self._settings),
            "version": self._version,
            "serve": self._served,
        }
        listening = await seat.start()
        process = seat.process
        assert process is not None
        try:
            await seat.load(boot)
            self._loaded[seat.index].set()
            await self._may_open.wait()
            async with self._change:  # nothing may change between catching up and opening
                if self._served is not None:
                    await seat.ask("catch_up", self._served, timeout_s=LOAD_TIMEOUT_S)
                self._orphans.leave(seat)
                self.addresses = await seat.open()
            self._opened[seat.index].set()
            if seat.restarts.count:
                logger.warning("worker %d serves again", seat.index)
        except HeadraceError as error:
            logger.error("worker %d: %s", seat.index, error.message)
            process.terminate()
        except (ChannelClosedError, TimeoutError):
            pass  # its end says more
        code = await process.wait()
        listening.cancel()
        return code

    async def _beat(self) -> None:
        """Collect everybody's metrics now and then: they must outlive their worker, and silence is a sign."""
        while not self.stopping:
            await asyncio.sleep(HEARTBEAT_S)
            await asyncio.gather(*(self._listen(seat) for seat in self.seats if seat.serving))

    async def _listen(self, seat: Seat) -> None:
        try:
            seat.families = msgspec.convert(
                await seat.ask("metrics", timeout_s=HANG_S), list[Family]
            )
        except ChannelClosedError:
            return
        except TimeoutError:
            logger.error("worker %d has not answered for %.0f s: it is killed", seat.index, HANG_S)
            seat.kill()

    async def _poll(self) -> None:
        """Let everybody look at the folder now and then."""
        while True:
            await asyncio.sleep(self._settings.repository.poll_interval_s)
            try:
                await self.refresh()
            except HeadraceError as error:
                logger.warning("looking at the repository failed: %s", error.message)

    async def stop(self, force: asyncio.Event) -> bool:
        """Every worker drains; True when all calls inside were answered. ``force`` skips the waiting."""
        self.stopping = True
        for task in self._rounds:
            task.cancel()
        drain = self._settings.drain
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
            seat.close_listeners()
        return self.was_clean

    async def abandon(self) -> None:
        """Nobody was served yet: end every worker without ceremony."""
        self.stopping = True
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

    def _handler(self, index: int) -> Callable[[str, Any], Awaitable[Any]]:
        async def handle(method: str, value: Any) -> Any:
            return await self._hear(index, method, value)

        return handle

    async def _hear(self, index: int, method: str, value: Any) -> Any:
        if method == "say":
            if index == 0 and not self._opened[0].is_set():
                self._say(value)
        elif method == "closed":
            self.seats[index].close_listeners()
        elif method == "stopped":
            self.was_clean = self.was_clean and bool(value)
        elif method == "repository_index":
            return msgspec.to_builtins(await self.index())
        elif method == "repository_load":
            await self.load(value)
        elif method == "repository_unload":
            await self.unload(value)
        elif method == "statistics":
            return msgspec.to_builtins(await self.statistics(*value))
        else:
            raise HeadraceError(ErrorCode.UNIMPLEMENTED, f"no such control call: {method}")
        return None

    # -- one voice --------------------------------------------------------------------------------

    async def _ask_all(
        self, method: str, value: Any = None, *, timeout_s: float = ASK_TIMEOUT_S
    ) -> list[tuple[Seat, Any]]:
        """(seat, answer) of every living worker; one that dies meanwhile is left out: it will catch up.

        An error of one is raised after all have answered.
        """
        seats = [seat for seat in self.seats if seat.serving]
        answers = await asyncio.gather(
            *(seat.ask(method, value, timeout_s=timeout_s) for seat in seats),
            return_exceptions=True,
        )
        found: list[tuple[Seat, Any]] = []
        failed: BaseException | None = None
        for seat, answer in zip(seats, answers, strict=True):
            if isinstance(answer, ChannelClosedError):
                continue
            if isinstance(answer, TimeoutError):
                text = f"worker {seat.index} did not answer within {timeout_s:g} s"
                failed = failed or HeadraceError(ErrorCode.NOT_READY, text)
            elif isinstance(answer, BaseException):
                failed = failed or answer
            else:
                found.append((seat, answer))
        if failed is not None:
            raise failed
        if not found:
            raise HeadraceError(
                ErrorCode.NOT_READY, "no worker is running; try again later", retry_after_s=1.0
            )
        return found

    async def index(self) -> list[ModelStatus]:
        answers = await self._ask_all("index")
        index = merge_indexes([msgspec.convert(one, list[ModelStatus]) for _, one in answers])
        self._served = {}
        for status in index:
            if status.state == "READY":
                self._served.setdefault(status.name, []).append(status.version)
        return index

    async def load(self, model: str) -> None:
        """Everybody loads and warms; once all have, everybody swaps. One that cannot keeps all on the old version."""
        refuse_unless_explicit(self._settings.repository)
        async with self._change:
            await self._in_two_steps("prepare_load", model)

    async def _in_two_steps(self, method: str, value: Any) -> None:
        try:
            await self._ask_all(method, value, timeout_s=LOAD_TIMEOUT_S)
        except BaseException:
            for seat in self.seats:
                seat.tell("abort")
            raise
        await self._ask_all("commit", timeout_s=LOAD_TIMEOUT_S)
        await self.index()

    async def unload(self, model: str) -> None:
        refuse_unless_explicit(self._settings.repository)
        async with self._change:
            await self._ask_all("unload", model, timeout_s=self._drain_s)
            await self.index()

    async def refresh(self) -> None:
        """Bring every worker to what lies in the folder now."""
        async with self._change:
            await self._in_two_steps("prepare_refresh", None)

    @property
    def _drain_s(self) -> float:
        return self._settings.drain.timeout_s + ASK_TIMEOUT_S

    async def statistics(self, model: str, version: str) -> list[VersionStatistics]:
        answers = await self._ask_all("statistics", [model, version])
        return statistics.merge(
            msgspec.convert(one, list[VersionStatistics], strict=False) for _, one in answers
        )

    async def ready(self) -> tuple[bool, str]:
        if self.stopping:
            return False, "the server is shutting down"
        if not any(seat.serving for seat in self.seats):
            return False, "no worker is running"
        answers = await self._ask_all("ready")
        return merge_ready([(bool(one[0]), str(one[1])) for _, one in answers])

    async def metrics(self) -> Families:
        await asyncio.gather(*(self._listen(seat) for seat in self.seats if seat.serving))
        living = [(str(seat.index), seat.families) for seat in self.seats if seat.families]
        return Families([*merge_families(living, self._departed), *self._own_families()])

    def _own_families(self) -> list[Family]:
        restarts: list[tuple[str, dict[str, str], float]] = [
            ("headrace_worker_restarts_total", {"worker": str(one.index)}, one.restarts.count)
            for one in self.seats
        ]
        return [
            Family(
                "headrace_workers",
                "Workers that serve now.",
                "gauge",
                [("headrace_workers", {}, sum(one.serving for one in self.seats))],
            ),
            Family(
                "headrace_worker_restarts",
                "Starts of a worker after one that died.",
                "counter",
                restarts,
            ),
            Family(
                "headrace_connections_handed_on",
                "Connections of an empty seat that another worker got.",
                "counter",
                [("headrace_connections_handed_on_total", {}, self._orphans.handed_on)],
            ),
        ]

    async def snapshot(self) -> dict[str, Any]:
        workers = {
            seat.index: answer
            for seat, answer in (
                await self._ask_all("snapshot") if any(one.serving for one in self.seats) else []
            )
        }
        ready, _ = await self.ready()
        return {
            "version": self._version,
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "ready": ready,
            "addresses": self.addresses,
            "models": msgspec.to_builtins(await self.index()) if workers else [],
            "workers": [
                {
                    "worker": seat.index,
                    "pid": seat.pid,
                    "serving": seat.serving,
                    "restarts": seat.restarts.count,
                    **workers.get(seat.index, {}),
                }
                for seat in self.seats
            ],
            "settings": msgspec.to_builtins(self._settings),
        }


async def _wait_for_all(events: Sequence[asyncio.Event]) -> None:
    for one in events:
        await one.wait()
