"""What an operator can set about rollouts, for the gateway and for the controller alike.

Only defaults and limits; it must never read a file or a variable. Units stand last in the names.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class RolloutSettings(msgspec.Struct, frozen=True):
    """Rollouts; the store itself is in ``[store]``."""

    enabled: bool = False
    """Whether plans are followed and can be made. Without it no store is asked for rollouts."""
    control: bool = True
    """Whether this instance may be the one that moves weights: one is elected among all that may."""
    state_dir: str = ".headrace"
    """Folder of the last known plans, and of the audit log: what must outlive the process."""
    audit_file: str = ""
    """The audit log; empty: ``audit.jsonl`` in ``state_dir``."""
    tokens_file: str = ""
    """Operators' tokens, made by ``headrace token create``; empty: changes are taken from this machine only."""
    store_timeout_ms: Annotated[float, Meta(ge=10, le=60_000)] = 1000.0
    """What one call to the store may take."""
    poll_interval_s: Annotated[float, Meta(ge=0.1, le=60)] = 1.0
    """How often plans are read anew; changes are pushed besides."""
    report_interval_ms: Annotated[float, Meta(ge=50, le=10_000)] = 250.0
    """How often a worker writes what it has counted."""
    beat_interval_ms: Annotated[float, Meta(ge=100, le=5_000)] = 500.0
    """How often a worker says that it lives and what it has warm."""
    tick_interval_ms: Annotated[float, Meta(ge=50, le=60_000)] = 500.0
    """How often the controller looks at every plan."""
    max_changes_per_min: Annotated[int, Meta(ge=1, le=10_000)] = 60
    """Changes that one caller of the admin port may ask for."""
