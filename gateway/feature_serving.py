"""Features in one process: the manifest, the connection to the store, lookups, and what each version makes of them.

Part of the composition root. It must never decide about a request; and a store that is away never keeps the gateway
from starting: models that need no features are served, the others do with copies and defaults, and the log says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from backends.errors import ModelLoadError
from backends.model_settings import FeaturesSettings
from backends.signature import Signature, TensorSpec
from featurecache.errors import FeatureError
from featurecache.feast.feast_layout import FeastLayout
from featurecache.joining.assembly import ModelInput
from featurecache.joining.on_demand import load_functions
from featurecache.joining.resolve import ServicePlan
from featurecache.lookups.breaker import BreakerLimits
from featurecache.lookups.lookup import RowLookup
from featurecache.lookups.lookup_limits import LookupLimits
from featurecache.manifests.manifest import Manifest, decode_manifest
from featurecache.manifests.needs import needed_refs
from featurecache.sources.opening import open_source
from featurecache.sources.ports import Loop, RowSource
from featurecache.sources.source_limits import SourceLimits
from featurecache.status import Status
from foundation.store import Store, StoreError, StoreSettings, open_store
from gateway.feast_serving import feast_source
from gateway.messages import RoutedRequest
from gateway.pipeline.enrich import Enrich, FeatureMeters, ServiceEnrichment
from gateway.ports import Clock, Servable, Service
from gateway.settings import FeatureSettings
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger("headrace.features")

MANIFEST_FILE = "manifest.json"


class FeatureFit:
    """Makes an enrichment of what ``model.toml`` asks for; fills the port ``Fit`` of the model loader.

    The manifest is read anew for each version that is loaded, so that a reload takes up what was applied since.
    """

    def __init__(self, settings: FeatureSettings, layout: FeastLayout | None = None) -> None:
        """``layout``: of Feast's store, which stays as it was opened."""
        self._path = manifest_path(settings)
        self._layout = layout

    def __call__(
        self, features: FeaturesSettings, signature: Signature, /
    ) -> ServiceEnrichment | None:
        """Raises ``ModelLoadError`` when manifest, service, model and key sources do not fit together."""
        if not features.service:
            return None
        try:
            manifest = read_manifest(self._path)
            service = manifest.service(features.service)
            if self._layout is not None:
                needed = needed_refs(manifest, service)
                self._layout.check(manifest, [ref.name for ref in needed if ref.kind == "view"])
            plan = ServicePlan(
                manifest,
                service,
                [ModelInput(one.name, one.datatype, one.shape) for one in signature.inputs],
                features.keys,
                load_functions(manifest, self._path.parent),
            )
        except FeatureError as error:
            raise ModelLoadError(f"[features]: {error}") from error
        inputs = tuple(TensorSpec(one.name, one.datatype, one.shape) for one in plan.client_inputs)
        return ServiceEnrichment(
            plan,
            features.lookup_budget_ms * 1e-3,
            features.max_defaulted_fraction,
            Signature(inputs, signature.outputs),
        )


class FeatureServing:
    """Lookups of one process, from ``start`` to ``close``."""

    def __init__(
        self,
        settings: FeatureSettings,
        source: RowSource,
        *,
        loop: Loop,
        clock: Clock,
        random_unit: Callable[[], float],
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._source = source
        self._clock, self._now_us = clock, now_us
        self.meters = FeatureMeters()
        self.lookup = RowLookup(
            source,
            loop=loop,
            clock=clock,
            limits=LookupLimits(
                near_cache_bytes=settings.near_cache_bytes,
                negative_bytes=settings.negative_cache_bytes,
                max_reads_in_flight=settings.max_reads_in_flight,
                max_pending_keys=settings.max_pending_keys,
            ),
            random_unit=random_unit,
            breaker=BreakerLimits(
                failures=settings.breaker_failures, open_s=settings.breaker_open_s
            ),
        )

    def hop(
        self,
        next_service: Service[RoutedRequest],
        on_drained: Callable[[Servable], None] = lambda servable: None,
    ) -> Enrich:
        """The hop of the stack that completes requests. ``on_drained``: see ``Enrich``."""
        return Enrich(self.lookup, self.meters, self._clock, self._now_us, next_service, on_drained)

    def hop_of_copies(
        self, next_service: Service[RoutedRequest], on_drained: Callable[[Servable], None]
    ) -> Enrich:
        """The same for copies of requests, which are not counted with the requests."""
        return Enrich(
            self.lookup, FeatureMeters(), self._clock, self._now_us, next_service, on_drained
        )

    async def start(self) -> None:
        """Connect, or begin to try; returns after the first try."""
        await self._source.start()
        if self._source.is_up:
            logger.info("features come from %s", self._source.name)
        else:
            logger.warning(
                "the feature store %s cannot be asked; models that need no features are served as always, the others "
                "with defaults until it is back",
                self._source.name,
            )

    async def close(self) -> None:
        """Let go of the store."""
        await self._source.close()

    @property
    def is_up(self) -> bool:
        """Whether the store can be asked now."""
        return self._source.is_up

    def snapshot(self) -> dict[str, object]:
        """For ``/status``."""
        found = self.lookup.snapshot()
        return {
            "store": self._source.name,
            "is_up": self._source.is_up,
            "tracks_changes": self._source.tracks,
            "breaker": found.breaker.name.lower(),
            "near_cache_bytes": found.cache_bytes,
            "near_cache_rows": found.cache_entries,
            "lookups": found.counters.lookups,
            "hit_share": round(1 - found.counters.missed_slots / max(1, found.counters.slots), 4),
        }

    def export(self, metrics: Metrics) -> None:
        """Declare what is told to Prometheus."""
        lookup, meters = self.lookup, self.meters
        metrics.counter(
            "headrace_feature_rows",
            "Rows of feature views that requests were completed with, by status.",
            ("view", "status"),
            lambda: [
                ((view, Status(one).name.lower()), n) for (view, one), n in meters.rows.items()
            ],
        )
        metrics.counter(
            "headrace_feature_requests_refused",
            "Requests that could not be completed: too many defaults, or none allowed.",
            ("service",),
            lambda: [((service,), n) for service, n in meters.refused.items()],
        )
        metrics.counter(
            "headrace_feature_lookup_rows",
            "Rows looked up, by where they came from.",
            ("outcome",),
            _Outcomes(lookup),
        )
        metrics.counter(
            "headrace_feature_reads",
            "Reads of the feature store, each of up to 500 rows, by how they ended.",
            ("outcome",),
            lambda: _reads(lookup),
        )
        metrics.gauge(
            "headrace_feature_cache_bytes",
            "Copies of rows that are kept in the process.",
            (),
            lambda: [((), float(lookup.snapshot().cache_bytes))],
        )
        metrics.gauge(
            "headrace_feature_breaker_state",
            "Of the feature store: 0 closed, 1 half open, 2 open.",
            (),
            lambda: [((), float(lookup.snapshot().breaker))],
        )
        metrics.gauge(
            "headrace_feature_store_up",
            "1 while the feature store can be asked.",
            (),
            lambda: [((), float(self._source.is_up))],
        )


class _Outcomes:
    """Rows by where they came from. What was missed came with a read, once it neither waits nor took something else."""

    def __init__(self, lookup: RowLookup) -> None:
        self._lookup = lookup
        self._read = 0

    def __call__(self) -> Iterable[tuple[tuple[str, ...], float]]:
        found = self._lookup.snapshot()
        counters = found.counters
        taken = counters.aged_slots + counters.unreachable_slots
        # Copies that are renewed wait as well, and a counter never falls: it may come a little late instead.
        self._read = max(self._read, counters.missed_slots - taken - found.waiting_slots)
        return [
            (("hit",), counters.slots - counters.missed_slots),
            (("read",), self._read),
            (("aged",), counters.aged_slots),
            (("unreachable",), counters.unreachable_slots),
        ]


def _reads(lookup: RowLookup) -> Iterable[tuple[tuple[str, ...], float]]:
    found = lookup.snapshot()
    sent, failed = found.counters.reads, found.counters.failed_reads
    return [(("ok",), sent - found.reads_in_flight - failed), (("failed",), failed)]


async def open_store_in_thread(settings: StoreSettings) -> Store:
    """The store, without keeping the loop; its data may still be on the way. Raises ``StoreError``.

    Cancelled, it waits for what has begun and lets go of it: a private server that nobody closes would live on.
    """
    opening = asyncio.create_task(asyncio.to_thread(open_store, settings, wait_for_data=False))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        with contextlib.suppress(StoreError):
            await asyncio.to_thread((await opening).close)
        raise


def row_source(settings: FeatureSettings, store: Store) -> RowSource:
    """Where rows come from, not connected yet; ``StoreError`` when the store's address cannot be used for that.

    Of Feast's rows the manifest says how they lie: without one there is no source.
    """
    if settings.layout == "feast":
        try:
            manifest = read_manifest(manifest_path(settings))
            return feast_source(settings, store, manifest, source_limits(settings))
        except FeatureError as error:
            raise StoreError(f'[features] layout = "feast": {error}') from None
    try:
        return open_source(store.url, source_limits(settings))
    except FeatureError as error:
        raise StoreError(f"[store] redis_url: {error}") from None


def source_limits(settings: FeatureSettings) -> SourceLimits:
    """What the connection to the store may take."""
    return SourceLimits(
        connect_timeout_s=settings.connect_timeout_ms * 1e-3,
        read_timeout_s=settings.read_timeout_ms * 1e-3,
    )


def manifest_path(settings: FeatureSettings) -> Path:
    """The manifest's file; the setting may name its folder."""
    path = Path(settings.manifest)
    return path / MANIFEST_FILE if path.is_dir() else path


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file; ``FeatureError`` when there is none."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FeatureError(
            f"manifest {path} cannot be read: {error.strerror}; write it with `headrace features apply`"
        ) from None
    return decode_manifest(text, str(path))
