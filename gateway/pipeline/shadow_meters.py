"""What is counted about copies: numbers of their own, so that no shadow ever shows in the figures of live traffic.

Decides only which versions are still shown. It must never look anything up by label while a primary waits.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

from gateway.core.batch import Batch

MAX_VERSIONS = 64
"""Versions whose counters are shown; the ones that were copied to longest ago go first."""


class ShadowLaneMeters:
    """What one shadow's lane counts; fills the port ``LaneMeters``."""

    __slots__ = ("batches", "run_s")

    def __init__(self) -> None:
        self.batches = 0
        self.run_s = 0.0

    def batch(self, batch: Batch[Any], ended_s: float, *, inline: bool) -> None:
        """One batch ran."""
        self.batches += 1
        self.run_s += ended_s - batch.started_s

    def answered(
        self,
        times_s: list[tuple[float, float]],
        started_s: float,
        ended_s: float,
        written_s: float,
    ) -> None:
        """Counted by outcome, where the answers are compared."""

    def shed(self, reason: str, count: int) -> None:
        """Likewise."""

    def late_answer(self) -> None:
        """Nobody waits for it."""


class _Version:
    __slots__ = ("lane", "outcomes")

    def __init__(self) -> None:
        self.lane = ShadowLaneMeters()
        self.outcomes: Counter[str] = Counter()


class ShadowMeters:
    """Of all copies of one process."""

    __slots__ = ("_versions", "shed")

    def __init__(self) -> None:
        self.shed: Counter[str] = Counter()
        """Copies that were not made, by reason."""
        self._versions: OrderedDict[tuple[str, str], _Version] = OrderedDict()

    def copied(self, model: str, version: str, outcome: str) -> None:
        """One copy has come to its end."""
        self._version(model, version).outcomes[outcome] += 1

    def lane(self, model: str, version: str) -> ShadowLaneMeters:
        """Of a version's lane: those of its earlier lane, if it had one."""
        return self._version(model, version).lane

    def outcomes(self) -> dict[tuple[str, str], dict[str, int]]:
        """Copies by (model, version), by outcome."""
        return {key: dict(one.outcomes) for key, one in self._versions.items()}

    def lanes(self) -> dict[tuple[str, str], ShadowLaneMeters]:
        """By (model, version)."""
        return {key: one.lane for key, one in self._versions.items()}

    def _version(self, model: str, version: str) -> _Version:
        key = (model, version)
        found = self._versions.get(key)
        if found is None:
            found = self._versions[key] = _Version()
            if len(self._versions) > MAX_VERSIONS:
                self._versions.popitem(last=False)
        else:
            self._versions.move_to_end(key)
        return found
