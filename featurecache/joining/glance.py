"""Requests like most: one row, ids that stand in keys as they are, copies that were judged before.

Decides which requests are like that; for them the way from ids to what they carry is a few steps. It must never take
one that the long way (``resolve.py``, ``view_use.py``) would answer differently: where in doubt, the long way it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Protocol

import numpy as np

from featurecache.joining.assembly import Tensor
from featurecache.joining.view_use import Usable, ViewUse
from featurecache.lookups.lookup_waiting import ViewKeys
from featurecache.rows.keys import is_plain

NEVER = -1
"""What no row is good for: a view without copies of its own takes none that another version's view has left."""
LOOK_AGAIN_S = 1.0
"""How long it may take at most until a row's age is looked at again, should the calendar be set."""


class JudgedRows(Protocol):
    """Who keeps copies, and what was found of them."""

    def note_good(self, key: bytes, row: bytes, fit: int, good_for_s: float, /) -> None:
        """See ``RowLookup.note_good``."""
        ...


class Glance:
    """What a service needs of a request whose keys all come as inputs."""

    __slots__ = ("_carried", "_frames", "_kept", "_uses", "fits", "present")

    def __init__(
        self, uses: Sequence[ViewUse], places: dict[str, int], carried: Sequence[int]
    ) -> None:
        """``places``: the input of each join key. ``carried``: inputs that are features, in the order of the plan."""
        self._uses = uses
        self._frames = [(*use.frame, [places[key] for key in use.keys]) for use in uses]
        self._carried = carried
        self._kept = [
            (number, use) for number, use in enumerate(uses) if use.caching.cache_ttl_s > 0.0
        ]
        self.fits = [use.fit if use.caching.cache_ttl_s > 0.0 else NEVER for use in uses]
        """What copies must be good for; see ``RowLookup.known_good``."""
        self.present = [use.present for use in uses]
        """Under which the rows are counted."""

    def keys(self, inputs: Sequence[Tensor]) -> list[bytes] | None:
        """Where the rows of a request lie, in the order of the uses; None for a request of another kind."""
        for one in inputs:
            if len(one) != 1:
                return None
        keys: list[bytes] = []
        for prefix, suffix, places in self._frames:
            parts = [inputs[place].item() for place in places]
            for number, part in enumerate(parts):
                if type(part) is int:
                    parts[number] = b"%d" % part
                elif not is_plain(part):
                    return None
            keys.append(prefix + (parts[0] if len(parts) == 1 else b"|".join(parts)) + suffix)
        return keys

    def views(self, keys: Sequence[bytes]) -> list[ViewKeys]:
        """What to look up where copies are not known to be good."""
        return [ViewKeys(use.caching, [key]) for use, key in zip(self._uses, keys, strict=True)]

    def carried(self, inputs: Sequence[Tensor], rows: Sequence[bytes]) -> tuple[Tensor, ...]:
        """What the request takes along into its batch; see ``ServicePlan.carried``."""
        row = np.empty((1, len(rows)), np.object_)
        for number, one in enumerate(rows):
            row[0, number] = one
        if not self._carried:
            return (row,)
        return (row, *[inputs[place] for place in self._carried])

    def note(
        self, copies: JudgedRows, wanted: Sequence[ViewKeys], views: Sequence[Usable], now_us: int
    ) -> None:
        """The long way found these rows: those that were good are so for the next request, too."""
        for number, use in self._kept:
            if views[number].statuses is None:
                (row,) = views[number].rows
                good_for_s = use.good_for_s(row, now_us)
                if good_for_s < inf:
                    good_for_s = min(good_for_s, LOOK_AGAIN_S)
                copies.note_good(wanted[number].keys[0], row, use.fit, good_for_s)
