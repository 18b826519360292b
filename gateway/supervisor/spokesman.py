"""One answer for the whole instance: asks every worker, and puts the answers together.

Changes are made in two steps, so that they happen in every worker or in none. A worker that dies meanwhile is left out:
it will catch up. It must never start or end a process: that is the supervisor's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
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
from gateway.supervisor.seat import LOAD_TIMEOUT_S, Seat

logger = logging.getLogger("headrace.supervisor")

ASK_TIMEOUT_S = 10.0
HANG_S = 30.0
"""A worker that does not answer for so long has stopped working: it is killed and started anew."""


class Spokesman:
    """Fills the port ``Instance`` for several workers."""

    def __init__(
        self, seats: Sequence[Seat], orphans: Orphanage, settings: GatewaySettings, version: str
    ) -> None:
        self._seats = seats
        self._orphans = orphans
        self._settings = settings
        self._version = version
        self._started_s = time.monotonic()
        self._departed: list[list[Family]] = []
        self.change = asyncio.Lock()
        """Held while what is served changes, and while a worker catches up."""
        self.served: dict[str, list[str]] | None = None
        """What a restarted worker must serve: the versions that the others have."""
        self.stopping = False
        self.addresses: dict[str, str] = {}

    def bury(self, seat: Seat) -> None:
        """The seat's worker has died: what it had counted stays."""
        if seat.families:
            self._departed = squash([*self._departed, seat.families])

    async def listen(self, seat: Seat) -> None:
        """Get a worker's metrics; one that does not answer is killed."""
        try:
            seat.families = msgspec.convert(
                await seat.ask("metrics", timeout_s=HANG_S), list[Family]
            )
        except ChannelClosedError:
            return
        except TimeoutError:
            logger.error("worker %d has not answered for %.0f s: it is killed", seat.index, HANG_S)
            seat.kill()

    # -- asking everybody --------------------------------------------------------------------------

    async def _ask_all(
        self, method: str, value: Any = None, *, timeout_s: float = ASK_TIMEOUT_S
    ) -> list[tuple[Seat, Any]]:
        """(seat, answer) of every living worker; one that dies meanwhile is left out: it will catch up.

        An error of one is raised after all have answered.
        """
        seats = [seat for seat in self._seats if seat.serving]
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
        return merge_indexes(await self._indexes())

    async def _indexes(self) -> list[list[ModelStatus]]:
        answers = await self._ask_all("index")
        return [msgspec.convert(one, list[ModelStatus]) for _, one in answers]

    async def note_what_is_served(self) -> None:
        """For those who start anew: what anybody serves, so that one weak worker does not spread its weakness."""
        served: dict[str, list[str]] = {}
        for index in await self._indexes():
            for status in index:
                versions = served.setdefault(status.name, [])
                if status.state == "READY" and status.version not in versions:
                    versions.append(status.version)
        self.served = {name: versions for name, versions in served.items() if versions}

    async def load(self, model: str) -> None:
        """Everybody loads and warms; once all have, everybody swaps. One that cannot keeps all on the old version."""
        refuse_unless_explicit(self._settings.repository)
        async with self.change:
            await self._in_two_steps("prepare_load", model)

    async def _in_two_steps(self, method: str, value: Any) -> None:
        try:
            await self._ask_all(method, value, timeout_s=LOAD_TIMEOUT_S)
        except BaseException:
            for seat in self._seats:
                seat.tell("abort")
            raise
        await self._ask_all("commit", timeout_s=LOAD_TIMEOUT_S)
        await self.note_what_is_served()

    async def unload(self, model: str) -> None:
        refuse_unless_explicit(self._settings.repository)
        async with self.change:
            try:
                await self._ask_all("unload", model, timeout_s=self._drain_s)
            finally:
                await self.note_what_is_served()

    async def refresh(self) -> None:
        """Bring every worker to what lies in the folder now."""
        async with self.change:
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
        if not any(seat.serving for seat in self._seats):
            return False, "no worker is running"
        try:
            answers = await self._ask_all("ready")
        except HeadraceError as error:
            return False, error.message
        return merge_ready([(bool(one[0]), str(one[1])) for _, one in answers])

    async def metrics(self) -> Families:
        await asyncio.gather(*(self.listen(seat) for seat in self._seats if seat.serving))
        living = [(str(seat.index), seat.families) for seat in self._seats if seat.families]
        return Families([*merge_families(living, self._departed), *self._own_families()])

    def _own_families(self) -> list[Family]:
        restarts: list[tuple[str, dict[str, str], float]] = [
            ("headrace_worker_restarts_total", {"worker": str(one.index)}, one.restarts.count)
            for one in self._seats
        ]
        return [
            Family(
                "headrace_workers",
                "Workers that serve now.",
                "gauge",
                [("headrace_workers", {}, sum(one.serving for one in self._seats))],
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
                await self._ask_all("snapshot") if any(one.serving for one in self._seats) else []
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
                for seat in self._seats
            ],
            "settings": msgspec.to_builtins(self._settings),
        }
