"""The feature store of a day as plain values: views, who uses them, who writes rows, and what goes wrong.

They decide nothing; ``feature_days.py`` draws them, ``feature_store.py`` and ``feature_book.py`` play them.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class ViewPlan(msgspec.Struct, frozen=True):
    """One feature view."""

    name: str
    cache_ttl_s: float = 0.0
    max_age_s: float | None = None
    stale_if_error_s: float = 0.0
    on_missing: Literal["default", "fail"] = "default"
    on_stale: Literal["default", "use", "fail"] = "default"
    has_hole: bool = False
    """One of its columns has no default, so that nothing may stand in for a row."""


class ServicePlanned(msgspec.Struct, frozen=True):
    """What one version of a model is completed with."""

    name: str
    views: tuple[str, ...]
    budget_ms: float = 5.0
    max_defaulted_fraction: float = 1.0
    key: Literal["input", "parameter", "header"] = "input"
    """Where callers name the entity."""


class RowChange(msgspec.Struct, frozen=True):
    """Somebody writes to the store."""

    at_s: float
    kind: Literal["write", "old", "delete", "corrupt", "alien", "flush"]
    view: str
    entity: int
    age_s: float = 0.0
    """How long ago it was true, when it is written."""


class StoreFault(msgspec.Struct, frozen=True):
    """What the store does instead of what it should, for a stretch of the day."""

    from_s: float
    to_s: float
    kind: Literal["slow", "hang", "down", "flap", "silent"]
    """``silent``: changes are no longer told."""
    delay_s: float = 0.0
    """Of a slow one, there and back; for one that flaps, the time between two changes of its mind."""


class StorePlan(msgspec.Struct, frozen=True):
    """One store, everybody who writes to it, and how the gateway is set to use it."""

    views: tuple[ViewPlan, ...]
    services: tuple[ServicePlanned, ...]
    entities: int = 20
    """Those that exist are 0 up to this; others are asked for, too."""
    hot: int = 3
    unknown_chance: float = 0.05
    empty_chance: float = 0.0
    status_chance: float = 0.3
    """Callers that ask for ``feature_status``."""
    delay_s: float = 5e-4
    tracking: bool = True
    changes: tuple[RowChange, ...] = ()
    faults: tuple[StoreFault, ...] = ()
    read_timeout_s: float = 0.1
    near_cache_bytes: int = 1 << 20
    negative_cache_bytes: int = 1 << 16
    max_reads_in_flight: int = 4
    max_pending_keys: int = 50_000
    breaker_failures: int = 3
    breaker_open_s: float = 0.05

    def view(self, name: str) -> ViewPlan:
        return next(one for one in self.views if one.name == name)

    def service(self, name: str) -> ServicePlanned:
        return next(one for one in self.services if one.name == name)

    def __repr__(self) -> str:
        """Without every single change: the seed draws them again."""
        told = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name in self.__struct_fields__
            if name != "changes"
        )
        return f"StorePlan({told}, {len(self.changes)} changes)"
