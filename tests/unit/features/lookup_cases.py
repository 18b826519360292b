"""A lookup over a scripted store, on invented time, for the tests of single situations."""

from __future__ import annotations

from typing import Any

from featurecache.lookups.breaker import BreakerLimits, BreakerState
from featurecache.lookups.lookup import Caching, Lookup, RowLookup, ViewKeys
from featurecache.lookups.lookup_limits import LookupLimits
from tests.sim.virtual_loop import VirtualLoop
from tests.support.scripted_rows import Mode, ScriptedRows, make_row

KEPT = Caching(10.0)
PLAIN = Caching(0.0)
BUDGET_S = 0.005


class World:
    """One lookup over a scripted store with the rows k0 to k9."""

    def __init__(self, breaker: BreakerLimits | None = None, **limits: Any) -> None:
        self.loop = VirtualLoop(callback_cost_s=0.0)
        self.source = ScriptedRows(self.loop)
        for number in range(10):
            self.source.versions[b"k%d" % number] = 1
        self.lookup = RowLookup(
            self.source,
            loop=self.loop,
            clock=self.loop.clock,
            limits=LookupLimits(**limits),
            random_unit=lambda: 0.5,
            breaker=breaker,
        )
        self.done: list[Lookup] = []

    def ask(
        self, *keys: bytes, caching: Caching = KEPT, budget_s: float = BUDGET_S, told: bool = True
    ) -> Lookup:
        lookup = self.lookup.ask([ViewKeys(caching, list(keys))], self.loop.now_s + budget_s)
        if told and not lookup.settled:
            lookup.on_done = lambda: self.done.append(lookup)
        return lookup

    def run(self, seconds: float = 0.05) -> None:
        until_s = self.loop.now_s + seconds
        self.loop.call_at(until_s, lambda: None)
        while self.loop.now_s < until_s or not self.loop.about_to_sleep:
            assert self.loop.run_turn()

    def trip(self) -> None:
        """Open the breaker with three reads that fail."""
        self.source.mode = Mode.REFUSES
        for number in range(3):
            self.ask(b"trip%d" % number, caching=PLAIN)
            self.run(0.001)
        assert self.lookup.snapshot().breaker is BreakerState.OPEN


def rows(*keys: bytes, version: int = 1) -> list[bytes | None]:
    return [make_row(key, version) for key in keys]
