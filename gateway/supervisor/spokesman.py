"""One answer for the whole instance: asks every worker, and puts the answers together.

Changes are made in two steps, so that they happen in every worker or in none. A worker that dies meanwhile is left out:
it will catch up. It must never start or end a process: that is the supervisor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from gateway.core import statistics
from gateway.core.statistics import VersionStatistics
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import ModelStatus
from gateway.settings import GatewaySettings
from gateway.supervisor.channel import ChannelClosedError
from gateway.supervisor.control_mode import refuse_unless_explicit
from gateway.supervisor.in_turn import InTurn
from gateway.supervisor.merge import (
    Families,
    Family,
    merge_families,
    merge_indexes,
    merge_ready,
)
from gateway.supervisor.orphans import Orphanage
from gateway.supervisor.seat import LOAD_TIMEOUT_S, Seat

logger = logging.getLogger("headrace.supervisor")

ASK_TIMEOUT_S = 10.0
COMMIT_TIMEOUT_S = 60.0
LOOK_TIMEOUT_S = 3.0
"""For metrics and status, which somebody looks at just when a worker does not answer."""
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
        self._departed: list[Family] = []
        self._changes = InTurn()
        self.change = self._changes.lock
        """Held while what is served changes, and while a worker catches up."""
        self.served: dict[str, list[str]] | None = None
        """What a restarted worker must serve: the versions that the others have."""
        self.has_started = False
        self.stopping = False
        self.addresses: dict[str, str] = {}

    def bury(self, seat: Seat) -> None:
        """The seat's worker has died: what it had counted stays."""
        if seat.families:
            self._departed = merge_families((), [*self._departed, *seat.families])

    async def listen(self, seat: Seat) -> None:
        """Get a worker's metrics; one that does not answer is killed."""
        process = seat.process
        try:
            answer = await seat.ask("metrics", timeout_s=HANG_S)
        except (ChannelClosedError, HeadraceError):
            return
        except TimeoutError:
            if seat.process is process:
                logger.error(
                    "worker %d has not answered for %.0f s: it is killed", seat.index, HANG_S
                )
                seat.kill()
            return
        if seat.process is process:  # else they are among the departed already
            seat.families = msgspec.convert(answer, list[Family])

    # -- asking everybody --------------------------------------------------------------------------

    async def _ask_all(
        self, method: str, value: Any = None, *, timeout_s: float = ASK_TIMEOUT_S
    ) -> list[tuple[Seat, Any]]:
        """(seat, answer) of every living worker; one that dies meanwhile is left out: it will catch up.

        An error of one is raised after all have answered.
        """
        found, failed = await self._ask_living(method, value, timeout_s=timeout_s)
        if failed is not None:
            raise failed
        if not found:
            raise HeadraceError(
                ErrorCode.NOT_READY, "no worker is running; try again later", retry_after_s=1.0
            )
        return found

    async def _ask_living(
        self, method: str, value: Any = None, *, timeout_s: float
    ) -> tuple[list[tuple[Seat, Any]], BaseException | None]:
        """Answers as in ``_ask_all``, and the first error."""
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
        return found, failed

    async def index(self) -> list[ModelStatus]:
        answers = await self._ask_all("index")
        return merge_indexes([_statuses(one) for _, one in answers])

    async def note_what_is_served(self) -> None:
        """For those who start anew: what anybody serves, so that one weak worker does not spread its weakness."""
        answers, _ = await self._ask_living("index", timeout_s=ASK_TIMEOUT_S)
        if not answers:
            return  # as it was: they will start with that
        served: dict[str, list[str]] = {}
        for _, index in answers:
            for status in _statuses(index):
                versions = served.setdefault(status.name, [])
                if status.state == "READY" and status.version not in versions:
                    versions.append(status.version)
        self.served = {name: versions for name, versions in served.items() if versions}

    async def load(self, model: str) -> None:
        """Everybody loads and warms; once all have, everybody swaps. One that cannot keeps all on the old version."""
        refuse_unless_explicit(self._settings.repository)
        await self._changes.run(partial(self._in_two_steps, "prepare_load", model))

    async def _in_two_steps(self, method: str, value: Any) -> None:
        try:
            await self._ask_all(method, value, timeout_s=LOAD_TIMEOUT_S)
        except BaseException:
            for seat in self._seats:
                seat.tell("abort")
            raise
        try:
            await self._ask_all("commit", timeout_s=COMMIT_TIMEOUT_S)
        finally:
            await self.note_what_is_served()

    async def unload(self, model: str) -> None:
        refuse_unless_explicit(self._settings.repository)
        await self._changes.run(partial(self._drop, model))

    async def _drop(self, model: str) -> None:
        try:
            await self._ask_all("unload", model, timeout_s=self._drain_s)
        finally:
            await self.note_what_is_served()

    async def refresh(self) -> None:
        """Bring every worker to what lies in the folder now."""
        await self._changes.run(partial(self._in_two_steps, "prepare_refresh", None))

    @property
    def _drain_s(self) -> float:
        return self._settings.drain.timeout_s + ASK_TIMEOUT_S

    async def statistics(self, model: str, version: str) -> list[VersionStatistics]:
        answers, failed = await self._ask_living(
            "statistics", [model, version], timeout_s=ASK_TIMEOUT_S
        )
        is_unknown = isinstance(failed, HeadraceError) and failed.code is ErrorCode.NOT_FOUND
        if failed is not None and not (answers and is_unknown):
            raise failed  # a worker that started later need not know a model that has gone
        return statistics.merge(
            msgspec.convert(one, list[VersionStatistics], strict=False) for _, one in answers
        )

    async def features(self) -> dict[str, Any]:
        return await self._ask_any("features")

    async def look_up(self, kind: str, name: str, asked: Any) -> dict[str, Any]:
        return await self._ask_any("look_up", [kind, name, asked])

    async def _ask_any(self, method: str, value: Any = None) -> dict[str, Any]:
        """The answer of one worker, whichever: the first that gives one, an error of its own included."""
        for seat in [seat for seat in self._seats if seat.serving]:
            with contextlib.suppress(ChannelClosedError, TimeoutError):
                found: dict[str, Any] = await seat.ask(method, value, timeout_s=LOOK_TIMEOUT_S)
                return found
        raise HeadraceError(
            ErrorCode.NOT_READY, "no worker answers now; try again later", retry_after_s=1.0
        )

    async def ready(self) -> tuple[bool, str]:
        if self.stopping:
            return False, "the server is shutting down"
        seats = [seat for seat in self._seats if seat.serving]
        if not seats:
            return False, "no worker is running" if self.has_started else "the models are loading"
        asking = [asyncio.create_task(self._ready(seat)) for seat in seats]
        answers = []
        try:
            for answer in asyncio.as_completed(asking):
                answers.append(await answer)
                if answers[-1][0]:  # one is enough: nobody waits for a worker that hangs
                    break
        finally:
            for one in asking:
                one.cancel()
        return merge_ready(answers)

    async def _ready(self, seat: Seat) -> tuple[bool, str]:
        try:
            is_ready, why = await seat.ask("ready", timeout_s=LOOK_TIMEOUT_S)
        except HeadraceError as error:
            return False, error.message
        except (ChannelClosedError, TimeoutError):
            return False, f"worker {seat.index} does not answer"
        return bool(is_ready), str(why)

    async def metrics(self) -> Families:
        asking = [asyncio.create_task(self.listen(seat)) for seat in self._seats if seat.serving]
        if asking:
            _, late = await asyncio.wait(asking, timeout=LOOK_TIMEOUT_S)
            for one in late:  # its latest report has to do
                one.cancel()
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
        answers, _ = await self._ask_living("snapshot", timeout_s=LOOK_TIMEOUT_S)
        workers = {seat.index: answer for seat, answer in answers}
        ready, _ = await self.ready()
        return {
            "version": self._version,
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "ready": ready,
            "addresses": self.addresses,
            "models": msgspec.to_builtins(
                merge_indexes([_statuses(one["models"]) for one in workers.values()])
            ),
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
            "settings": self._settings.shown,
        }


def _statuses(index: Any) -> list[ModelStatus]:
    return msgspec.convert(index, list[ModelStatus])
