"""Rows that callers push: let in, checked, packed and written by one thread, so that the loop never waits for a store.

Decides whether a push may come in, how long it may take, and what its caller is told. It must never write a part of a
push whose rows are not all good, and never let more work pile up than ``[features]`` allows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from featurecache.errors import DefinitionError, RowError, SourceError, UnknownViewError
from featurecache.sources.ports import RowSource
from foundation.store import Store
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.live_manifest import LiveManifest
from gateway.messages import PushOutcome
from gateway.ports import ReadRows
from gateway.pushed_rows import PushedRowsWriter, Written
from gateway.settings import FeatureSettings
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger("headrace.features")

RETRY_AFTER_S = 1.0
COMPLAIN_EVERY_S = 10.0
"""What is wrong with the store is told to the log, but not for every push."""

OFF = (
    "pushing rows is off: features.push is false; set push = true in [features] of headrace.toml, or "
    "HEADRACE_FEATURES_PUSH=true, and start the server again"
)
NO_FEATURES = (
    "this server has no features: set manifest in [features] of headrace.toml and start it again"
)
ONLY_READ = 'rows of features.layout = "feast" are only read; push them with Feast'


class NoPushes:
    """Fills ``FeaturePusher`` where nothing may be pushed, and says why."""

    max_bytes = 0

    def __init__(self, code: ErrorCode, why: str) -> None:
        self._code, self._why = code, why

    def check(self) -> None:
        raise HeadraceError(self._code, self._why)

    async def push(self, read: ReadRows) -> PushOutcome:
        raise HeadraceError(self._code, self._why)

    def export(self, metrics: Metrics) -> None:
        """There is nothing to count."""

    async def close(self) -> None:
        """There is nothing to let go of."""


class FeaturePushes:
    """Fills ``FeaturePusher`` for one process, until ``close``."""

    def __init__(
        self,
        settings: FeatureSettings,
        writer: PushedRowsWriter,
        source: RowSource,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``source``: the reading side, which knows whether the store is there and keeps copies of its rows."""
        self.max_bytes = settings.max_push_bytes
        self.rows: Counter[tuple[str, str]] = Counter()
        """By (view, outcome)."""
        self.calls: Counter[str] = Counter()
        """Pushes by outcome: "ok" or an error code."""
        self._max_rows = settings.max_push_rows
        self._max_inside = settings.max_pushes_in_flight
        self._timeout_s = settings.push_timeout_ms * 1e-3
        self._writer = writer
        self._source = source
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, "feature-push")
        self._inside = 0
        self._complained_s = -COMPLAIN_EVERY_S

    def check(self) -> None:
        """See ``FeaturePusher``. Counts what it refuses."""
        try:
            self._check()
        except HeadraceError as error:
            self.calls[error.code.value] += 1
            raise

    async def push(self, read: ReadRows) -> PushOutcome:
        """See ``FeaturePusher``."""
        try:
            self._check()
            written = await self._write(read)
        except HeadraceError as error:
            self.calls[error.code.value] += 1
            raise
        self.calls["ok"] += 1
        for outcome, rows in msgspec.structs.asdict(written.outcome).items():
            if rows:
                self.rows[written.view, outcome] += rows
        forget = self._source.on_invalidated
        if forget is not None and written.keys:
            # The store says so too where it tracks, but perhaps after our caller has asked again.
            forget(written.keys)
        return written.outcome

    def _check(self) -> None:
        if self._inside >= self._max_inside:
            raise HeadraceError(
                ErrorCode.OVERLOADED,
                f"{self._max_inside} pushes are inside already (features.max_pushes_in_flight); try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        if not self._source.is_up:
            raise _not_now(
                "the feature store cannot be reached; nothing was written, try again later"
            )

    async def _write(self, read: ReadRows) -> Written:
        work = self._pool.submit(self._writer.write, read, self._max_rows)
        self._inside += 1
        loop = asyncio.get_running_loop()
        # A push whose caller has gone is inside for as long as the thread has it.
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._left))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), self._timeout_s)
        except TimeoutError:
            raise _not_now(self._why_late(work)) from None
        except UnknownViewError as error:
            raise HeadraceError(ErrorCode.NOT_FOUND, str(error)) from None
        except (RowError, DefinitionError) as error:
            raise invalid(str(error)) from None
        except SourceError as error:
            self._complain(error)
            raise _not_now(
                "the feature store did not take the rows, or not all of them; push them again later, which "
                "changes nothing about those that it has"
            ) from None

    def _left(self) -> None:
        self._inside -= 1

    def _why_late(self, work: Future[Written]) -> str:
        limit = f"{self._timeout_s * 1e3:g} ms (features.push_timeout_ms)"
        if work.cancelled():
            return (
                f"its turn did not come within {limit}: nothing of this push was written, try again"
            )
        return (
            f"the feature store did not answer within {limit}; push the rows again, which changes nothing "
            "about those that it has"
        )

    def _complain(self, error: SourceError) -> None:
        now_s = self._clock()
        if now_s - self._complained_s >= COMPLAIN_EVERY_S:
            self._complained_s = now_s
            logger.warning("pushed rows could not be written: %s", error)

    def export(self, metrics: Metrics) -> None:
        """Declare what is told to Prometheus."""
        metrics.counter(
            "headrace_feature_pushed_rows",
            "Rows that callers pushed, by what became of them.",
            ("view", "outcome"),
            lambda: list(self.rows.items()),
        )
        metrics.counter(
            "headrace_feature_pushes",
            "Pushes of rows, by how they ended.",
            ("outcome",),
            lambda: [((outcome,), count) for outcome, count in self.calls.items()],
        )
        metrics.gauge(
            "headrace_feature_pushes_inside",
            "Pushes of rows that are being checked or written, or wait for that.",
            (),
            lambda: [((), float(self._inside))],
        )

    async def close(self) -> None:
        """The push that is being written ends within its time; those that wait are dropped."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
        self._writer.close()


def open_pushes(
    settings: FeatureSettings, store: Store | None, source: RowSource | None
) -> FeaturePushes | NoPushes:
    """What the settings ask for. redis-py is imported only where rows may be pushed."""
    if not settings.push:
        return NoPushes(ErrorCode.PERMISSION_DENIED, OFF)
    if store is None or source is None:
        return NoPushes(ErrorCode.UNIMPLEMENTED, NO_FEATURES)
    if settings.layout != "packed":
        return NoPushes(ErrorCode.UNIMPLEMENTED, ONLY_READ)
    url, timeout_s = store.url, settings.push_timeout_ms * 1e-3
    return FeaturePushes(settings, PushedRowsWriter(url, LiveManifest(settings), timeout_s), source)


def _not_now(why: str) -> HeadraceError:
    return HeadraceError(ErrorCode.NOT_READY, why, retry_after_s=RETRY_AFTER_S)
