"""What is defined and what the store has, for people and checkers at the admin port.

Decides how many may look at once and for how long they wait. It asks the same ``RowLookup`` as predictions do, so it
shows this process's copies, too. It must never hold the loop: all but the asking is done on threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from featurecache.errors import FeatureError
from featurecache.joining.on_demand import NO_FUNCTIONS, Functions, load_functions
from featurecache.lookups.lookup import Lookup, RowLookup
from featurecache.manifests.manifest import Manifest, ServiceSpec, ViewSpec
from featurecache.manifests.needs import key_types, needed_refs
from gateway.errors import ErrorCode, HeadraceError
from gateway.feature_serving import FeatureServing, manifest_path
from gateway.feature_showing import Question
from gateway.live_manifest import LiveManifest
from gateway.settings import FeatureSettings

BUDGET_S = 1.0
"""People can wait longer than a prediction for a store that is slow."""
MAX_LOOKING = 4


class NoFeatures:
    """Fills ``FeatureReader`` of a gateway without features."""

    async def features(self) -> dict[str, Any]:
        raise _no_features()

    async def look_up(self, kind: str, name: str, asked: Any) -> dict[str, Any]:
        raise _no_features()


class FeatureLooking:
    """Fills ``FeatureReader`` for one process."""

    def __init__(
        self,
        settings: FeatureSettings,
        lookup: RowLookup,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._settings = settings
        self._live = LiveManifest(settings)
        self._lookup = lookup
        self._clock, self._now_us = clock, now_us
        self._looking = 0
        self._functions: tuple[Manifest | None, Functions] = (None, NO_FUNCTIONS)

    async def features(self) -> dict[str, Any]:
        """See ``FeatureReader``."""
        return await asyncio.to_thread(lambda: _short(self._live.get()))

    async def look_up(self, kind: str, name: str, asked: Any) -> dict[str, Any]:
        """See ``FeatureReader``."""
        if self._looking >= MAX_LOOKING:
            raise HeadraceError(
                ErrorCode.OVERLOADED,
                f"{MAX_LOOKING} lookups are shown at once, and no more; try again in a moment",
                retry_after_s=1.0,
            )
        self._looking += 1
        try:
            question = await asyncio.to_thread(
                lambda: Question(self._live.get(), kind, name, asked)
            )
            found = await self._rows(question)
            return await asyncio.to_thread(self._answer, question, found)
        finally:
            self._looking -= 1

    async def _rows(self, question: Question) -> Lookup:
        found = self._lookup.ask(question.views, self._clock() + BUDGET_S)
        if not found.settled:
            settled = asyncio.Event()
            found.on_done = settled.set
            try:
                await settled.wait()
            finally:
                if not found.settled:
                    self._lookup.detach(found)
        return found

    def _answer(self, question: Question, found: Lookup) -> dict[str, Any]:
        functions = NO_FUNCTIONS
        if question.computed:
            manifest = question.manifest
            if self._functions[0] is not manifest:
                try:
                    loaded = load_functions(manifest, manifest_path(self._settings).parent)
                except FeatureError:  # each of its features says that it has no function
                    loaded = NO_FUNCTIONS
                self._functions = (manifest, loaded)
            functions = self._functions[1]
        return question.answer(found, self._now_us(), functions)


def open_looking(
    settings: FeatureSettings, features: FeatureServing | None
) -> FeatureLooking | NoFeatures:
    """What the settings ask for."""
    return NoFeatures() if features is None else FeatureLooking(settings, features.lookup)


def _no_features() -> HeadraceError:
    return HeadraceError(
        ErrorCode.UNIMPLEMENTED,
        "this server has no features: set manifest in [features] of headrace.toml and start it again",
    )


def _short(manifest: Manifest) -> dict[str, Any]:
    return {
        "project": manifest.project,
        "revision": manifest.revision,
        "digest": manifest.digest,
        "entities": {one.name: one.keys for one in manifest.entities},
        "views": [_view(manifest, one) for one in manifest.views],
        "inputs": {one.name: one.type for one in manifest.inputs},
        "on_demand": {one.name: one.type for one in manifest.on_demand},
        "services": [_service(manifest, one) for one in manifest.services],
    }


def _view(manifest: Manifest, view: ViewSpec) -> dict[str, Any]:
    return {
        "name": view.name,
        "entity": view.entity,
        "keys": manifest.entity(view.entity).keys,
        "columns": {one.name: one.type for one in view.columns},
        "max_age_s": view.max_age_s,
        "retention_s": view.retention_s,
        "cache_ttl_s": view.cache_ttl_s,
        "stale_if_error_s": view.stale_if_error_s,
        "on_missing": view.on_missing,
        "on_stale": view.on_stale,
        "on_null": view.on_null,
        "owner": view.owner,
        "description": view.description,
        "tags": view.tags,
        "pii": view.pii,
    }


def _service(manifest: Manifest, service: ServiceSpec) -> dict[str, Any]:
    needed = needed_refs(manifest, service)
    return {
        "name": service.name,
        "owner": service.owner,
        "description": service.description,
        "keys": key_types(manifest, service),
        "inputs": sorted({ref.name for ref in needed if ref.kind == "input"}),
        "features": [str(ref) for ref in service.refs],
    }
