"""Events of groups in the order of time: how many lie in a window, what they add up to, which was last.

Decides when an event counts: one of minute ``m`` is known when that minute is over, so it counts from ``m + 1`` on.
It must never look at what an event means. Everything is integers, so that sums do not depend on the order of the
rows. Minutes are UTC.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from examples.flights.flight_log import NEVER, Ints, Words

_GROUP = np.int64(1) << 32  # room for any minute below a group's number


class Stream:
    """Events that did happen, as group, minute and value, int64 [N] each.

    A group is whatever shares evidence: an airport, a carrier, a plane; numbers from 0 on. Events at ``NEVER`` or in
    no group (-1) are left out.
    """

    def __init__(self, group: Ints, minute: Ints, value: Ints) -> None:
        happened = np.flatnonzero((minute < NEVER) & (group >= 0))
        keys = group[happened] * _GROUP + minute[happened]
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._running = np.concatenate([[0], np.cumsum(value[happened][order])])
        self.event: Ints = happened[order]
        """The events' places in the arrays that were given, by group and minute, int64 [M]."""
        self.group: Ints = group[self.event]
        self.minute: Ints = minute[self.event]

    def window(self, group: Ints, end: Ints, minutes: int) -> tuple[Ints, Ints]:
        """Count and sum of the group's events with ``end - minutes <= minute < end``, int64 [Q] each."""
        first = np.searchsorted(self._keys, group * _GROUP + (end - minutes))
        last = np.searchsorted(self._keys, group * _GROUP + end)
        return last - first, self._running[last] - self._running[first]

    def total(self, group: Ints, end: Ints) -> Ints:
        """Sum of all the group's events with ``minute < end``, int64 [Q]."""
        return self.window(group, end, 1 << 31)[1]

    def latest(self, group: Ints, end: Ints) -> Ints:
        """The place of the group's last event with ``minute < end``, or -1, int64 [Q]."""
        if not len(self.event):
            return np.full(len(group), -1, dtype=np.int64)
        place = np.searchsorted(self._keys, group * _GROUP + end) - 1
        found = (place >= 0) & (self.group[place] == group)
        return np.where(found, self.event[place], -1)


class Moments:
    """The moments at which a group's values may become others: a set of (group, tick).

    Ticks are the minutes that are ``phase`` more than a multiple of ``step``: when a job that runs every ``step``
    minutes runs. A change counts at the first tick that is not before it.
    """

    def __init__(self, step: int, phase: int = 0) -> None:
        self._step, self._phase = step, phase
        self._keys: list[Ints] = []

    def change(self, group: Ints, minute: Ints) -> None:
        """At ``minute`` something enters or leaves what ``group`` is told."""
        tick = -(-(minute - self._phase) // self._step) * self._step + self._phase
        self._keys.append(np.unique(group * _GROUP + tick))

    def window(self, stream: Stream, minutes: int) -> None:
        """Each event enters when its minute is over, and leaves ``minutes`` later."""
        self.change(stream.group, stream.minute + 1)
        self.change(stream.group, stream.minute + 1 + minutes)

    def all(self) -> tuple[Ints, Ints]:
        """Groups and ticks by group and time, each pair once, int64 [R] each."""
        keys = np.unique(np.concatenate(self._keys))
        return keys // _GROUP, keys % _GROUP


def grouped(**keys: Words) -> tuple[Ints, pd.DataFrame]:
    """A number for each combination of keys, int64 [N], and the keys of each number in alphabetical order.

    A row with an empty key is in no group: -1.
    """
    table = pd.DataFrame(keys)
    whole = (table != "").all(axis=1).to_numpy()
    names = table[whole].drop_duplicates().sort_values(list(keys), ignore_index=True)
    numbers = table.merge(names.assign(_number=range(len(names))), how="left", on=list(keys))
    return numbers["_number"].fillna(-1).to_numpy(dtype=np.int64), names
