"""What was known before a moment: sums over past events, and the latest past event.

Decides the one rule that keeps a training set honest: an event counts only if it happened strictly
before the moment of the question, and a flight never counts as evidence about itself. It must never
look at what an event means. Everything is integers, so that sums do not depend on the order of the
rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from examples.flights.flight_log import NEVER, Ints, Words

_GROUP = np.int64(1) << 32  # room for any minute below a group's number
NO_GROUP = -1


@dataclass(frozen=True)
class Events:
    """At most one event per flight: in which group, at which minute, what value; int64 [N] each.

    A group is whatever shares evidence: an airport, a carrier, a plane. Flights in ``NO_GROUP``
    have no event and are told of none.
    """

    group: Ints
    minute: Ints
    value: Ints

    def others_between(self, start: Ints, end: Ints) -> tuple[Ints, Ints]:
        """Count and sum of a group's events with ``start <= minute < end``, without one's own."""
        order, keys = self._sorted()
        running = np.concatenate([[0], np.cumsum(self.value[order])])
        first = np.searchsorted(keys, self.group * _GROUP + start)
        last = np.searchsorted(keys, self.group * _GROUP + end)
        own = (self.minute >= start) & (self.minute < end)
        known = self.group != NO_GROUP
        count = np.where(known, last - first - own, 0)
        total = np.where(known, running[last] - running[first] - own * self.value, 0)
        return count, total

    def latest_other(self, before: Ints) -> Ints:
        """Whose event was the group's latest with ``minute < before``, without one's own; or -1."""
        order, keys = self._sorted()
        if not len(order):
            return np.full(len(self.group), -1, dtype=np.int64)
        place = np.searchsorted(keys, self.group * _GROUP + before) - 1
        flight = order[np.maximum(place, 0)]
        place = place - (flight == np.arange(len(self.group)))
        flight = order[np.maximum(place, 0)]
        found = (place >= 0) & (self.group[flight] == self.group) & (self.group != NO_GROUP)
        return np.where(found, flight, -1)

    def _sorted(self) -> tuple[Ints, Ints]:
        happened = np.flatnonzero((self.minute < NEVER) & (self.group != NO_GROUP))
        keys = self.group[happened] * _GROUP + self.minute[happened]
        order = np.argsort(keys, kind="stable")
        return happened[order], keys[order]


def grouped(*names: Words) -> Ints:
    """A number for each combination of names, ``NO_GROUP`` where one is empty; int64 [N]."""
    group = np.zeros(len(names[0]), dtype=np.int64)
    missing = np.zeros(len(names[0]), dtype=np.bool_)
    for column in names:
        codes, words = pd.factorize(column)
        group = group * len(words) + codes
        missing |= column == ""
    return np.where(missing, NO_GROUP, group)
