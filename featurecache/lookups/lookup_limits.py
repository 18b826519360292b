"""The bounds of lookups, and what they count of themselves.

Decides nothing; values only.
"""

from __future__ import annotations

import msgspec

from featurecache.lookups.breaker import BreakerState


class LookupLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one process may hold and ask for at a time."""

    near_cache_bytes: int = 64 << 20
    """Of copies, their overhead included; 0 keeps none."""
    negative_bytes: int = 4 << 20
    """Of "there is no such row", kept apart so that made-up ids push out nothing."""
    keys_per_read: int = 500
    """Long reads hold up those behind them on the same connection."""
    max_reads_in_flight: int = 4
    """Keys asked for meanwhile join the next read."""
    max_pending_keys: int = 50_000
    """Keys asked for and not yet answered; beyond them a lookup takes what is at hand."""
    max_waiting_slots: int = 200_000
    """Places in answers that wait for those keys, also of callers that went away; beyond them likewise."""
    fair_wait_s: float = 0.001
    """A read that had less than this is not blamed for a deadline that passed."""
    max_read_s: float = 5.0
    """A source that has not said anything after this never will: far above its own read timeout."""

    def __post_init__(self) -> None:
        for name in ("near_cache_bytes", "negative_bytes", "fair_wait_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more")
        for name in ("max_reads_in_flight", "max_pending_keys", "max_waiting_slots", "max_read_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give more than 0")
        if not 1 <= self.keys_per_read <= 500:
            raise ValueError(f"keys_per_read is {self.keys_per_read}: give 1 to 500")


class LookupCounters(msgspec.Struct):
    """Since the start. A slot is one place in the answer to one lookup."""

    lookups: int = 0
    slots: int = 0
    missed_slots: int = 0
    """Not served by a fresh copy; the others were, copies of "no such row" included."""
    joined_slots: int = 0
    """Waited for a key that was already asked for."""
    aged_slots: int = 0
    """Served by an expired copy because the store failed."""
    unreachable_slots: int = 0
    """The store could not be asked in time and no copy was at hand."""
    expired_lookups: int = 0
    """Took what was at hand at their deadline."""
    open_lookups: int = 0
    """Took what was at hand at once because the store was away or the breaker open."""
    refused_lookups: int = 0
    """Took what was at hand at once because too much was pending."""
    detached_lookups: int = 0
    reads: int = 0
    read_keys: int = 0
    failed_reads: int = 0
    late_reads: int = 0
    """In flight while somebody's deadline passed; one that failed later is counted there too."""
    absent_rows: int = 0
    corrupt_rows: int = 0
    renewals: int = 0
    """Copies read again before their end."""
    abandoned_keys: int = 0
    """Not sent, since all who waited had gone."""
    invalidated_rows: int = 0
    """Copies that were dropped because the store said so."""
    forgotten: int = 0
    """How often the source said that anything may have changed."""


class LookupSnapshot(msgspec.Struct, frozen=True):
    """How lookups stand at one moment."""

    counters: LookupCounters
    pending_keys: int
    waiting_slots: int
    waiting_lookups: int
    reads_in_flight: int
    cache_bytes: int
    cache_entries: int
    """Rows and "no such row" together."""
    negative_entries: int
    evictions: int
    breaker: BreakerState
    breaker_opened: int
