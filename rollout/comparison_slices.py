"""The figures of comparisons by slice (a carrier, a country, a tariff), for a bounded number of slices.

Decides which slices have figures of their own. It must never depend on the order in which they came. At its fullest
(every slice with every output and every pair) it is about 5 MB of memory and 1.8 MB of JSON; with one output 0.2 MB.
"""

from __future__ import annotations

import msgspec

from rollout.comparison_rules import MAX_SLICES, bounded_name, rank
from rollout.comparison_stats import Comparison, added


class SlicedComparison(msgspec.Struct, omit_defaults=True):
    """The figures by the value of a slice: those of `pinned` slices, and of others while there is room, have their own.

    With more than MAX_SLICES values the unpinned ones of the lowest rank (a hash of the name) are kept, and all
    others are in `other`. A slice that is kept is complete: it was kept in every part that was added up.

    Raises ValueError on more pinned slices than there is room for.
    """

    pinned: tuple[str, ...] = ()
    slices: dict[str, Comparison] = {}
    other: Comparison = msgspec.field(default_factory=Comparison)

    def __post_init__(self) -> None:
        if len(self.pinned) > MAX_SLICES:
            raise ValueError(f"{len(self.pinned)} slices are named: name at most {MAX_SLICES}.")
        self.pinned = tuple(sorted({bounded_name(name) for name in self.pinned}))

    def record(self, slice_value: object, comparison: Comparison) -> None:
        """Adds the figures of `comparison` to those of a slice; `slice_value` is a str, bytes, a number or None."""
        self._add(bounded_name(slice_value), comparison)

    def absorb(self, others: SlicedComparison) -> None:
        """Adds the figures of `others`, which stays as it is.

        Raises ValueError when it pins other slices: then what is kept in one may be incomplete in the other.
        """
        if others.pinned != self.pinned:
            raise ValueError(
                f"figures by the slices {list(self.pinned)} and {list(others.pinned)} cannot be added:"
                " name the same slices everywhere."
            )
        for name, comparison in others.slices.items():
            self._add(name, comparison)
        self.other.absorb(others.other)

    def total(self) -> Comparison:
        """The figures of all slices together."""
        return added(self.other, *self.slices.values())

    def _add(self, name: str, comparison: Comparison) -> None:
        mine = self.slices.get(name)
        if mine is None:
            if len(self.slices) >= MAX_SLICES:
                last = max(self.slices, key=self._rank)
                if self._rank(name) > self._rank(last):
                    self.other.absorb(comparison)
                    return
                self.other.absorb(self.slices.pop(last))
            mine = self.slices[name] = Comparison()
        mine.absorb(comparison)

    def _rank(self, name: str) -> tuple[bool, bytes]:
        return name not in self.pinned, rank(name)
