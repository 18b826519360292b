"""The features of a day: one store, the manifest that describes it, and what each process makes of them.

Decides nothing: it builds what ``gateway/app.py`` builds, with the gateway's own ``FeatureFit`` and ``FeatureServing``.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING
from unittest.mock import patch

from backends.model_settings import FeaturesSettings
from backends.signature import Signature
from gateway import feature_serving
from gateway.feature_serving import FeatureFit, FeatureServing
from gateway.settings import FeatureSettings
from tests.sim.feature_book import FeatureBook
from tests.sim.feature_plans import StorePlan
from tests.sim.feature_rows import manifest_of, model_signature
from tests.sim.feature_store import Store
from tests.sim.plans import ModelPlan

if TYPE_CHECKING:
    from tests.sim.process import Process, World
    from tests.sim.scripted_model import ScriptedModel

WIDTH = 3
"""Ids in a row of those who call models with features."""
ASK_EVERY_S = 0.5


class FeatureWorld:
    """What all processes of a day share."""

    def __init__(self, plan: StorePlan, world: World) -> None:
        self.plan = plan
        self.store = Store(
            plan, world.loop, lambda *about: world.history.note(world.loop.now_s, *about)
        )
        self.settings = FeatureSettings(
            near_cache_bytes=plan.near_cache_bytes,
            negative_cache_bytes=plan.negative_cache_bytes,
            max_reads_in_flight=plan.max_reads_in_flight,
            max_pending_keys=plan.max_pending_keys,
            breaker_failures=plan.breaker_failures,
            breaker_open_s=plan.breaker_open_s,
        )
        self._world = world
        self._manifest = manifest_of(plan, WIDTH)
        self._over_s: float | None = None
        self._asked_s = 0.0

    def signature(self, plan: ModelPlan) -> Signature | None:
        """What the model takes; None for one without features."""
        if not plan.features:
            return None
        return model_signature(self.plan, self.plan.service(plan.features), WIDTH)

    def fit(self, backend: ScriptedModel) -> object:
        """What ``model.toml`` would ask for."""
        if not backend.plan.features:
            return None
        service = self.plan.service(backend.plan.features)
        asked = FeaturesSettings(
            service=service.name,
            lookup_budget_ms=service.budget_ms,
            max_defaulted_fraction=service.max_defaulted_fraction,
            keys={"who": f"{service.key}:who"},
        )
        with patch.object(feature_serving, "read_manifest", lambda path: self._manifest):
            return FeatureFit(self.settings)(asked, backend.signature)

    def open(self, process: Process, seed: int) -> tuple[FeatureServing, FeatureBook]:
        """The lookups of a process that starts, and the books of them."""
        world = self._world
        connection = self.store.connect(process.loop, lambda: process.alive)
        dice = Random(f"{seed} lookups {len(world.processes)}")
        book: FeatureBook

        def now_us() -> int:
            return book.calendar_us()

        features = FeatureServing(
            self.settings,
            connection,
            loop=process.loop,
            clock=world.loop.clock,
            random_unit=dice.random,
            now_us=now_us,
        )
        book = FeatureBook(self.plan, self.store, connection, features, world.loop, world.history)
        return features, book

    def is_trusted_again(self, processes: Iterable[Process]) -> bool:
        """In the evening: the store is well, and every process must find out."""
        now_s = self._world.loop.now_s
        if self._over_s is None:
            self._over_s = now_s
            self.store.calm_down()
        if now_s < self._asked_s + ASK_EVERY_S and self._asked_s:
            return False
        self._asked_s = now_s
        books = [one.book.features for one in processes if one.alive]
        recovered = [one.recover(now_s, self._over_s) for one in books if one is not None]
        if all(recovered):
            self._asked_s = 0.0
            return True
        self._world.loop.call_at(now_s + ASK_EVERY_S, lambda: None)  # there is another turn
        return False
