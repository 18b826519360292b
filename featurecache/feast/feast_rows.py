"""Packed rows of ours made of what feast's hashes hold.

Decides what counts as absent (neither a value nor an event time; feast itself calls that present), and what as
unreadable. A row whose event time is lost is as old as can be. It must never mix rows: what is odd in one leaves its
neighbours as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from featurecache.columns import Values
from featurecache.errors import RowError
from featurecache.feast.feast_layout import FeastView
from featurecache.feast.feast_values import Flags, Raw, decode, event_time_us

UNREADABLE = b"\0"
"""No sound row: whoever checks rows finds it so."""

WRITTEN_AT_UNKNOWN_TIME = 0
"""Feast does not keep when a row was written."""


def rows_of(view: FeastView, replies: Sequence[Sequence[Raw]], start: int) -> list[bytes | None]:
    """One packed row per reply: the view's fields stand from ``start`` on. None where there is no such row."""
    end = start + len(view.fields) - 1
    there = [
        i for i, reply in enumerate(replies) if reply[end] is not None or any(reply[start:end])
    ]
    rows: list[bytes | None] = [None] * len(replies)
    if not there:
        return rows
    found = [replies[i] for i in there] if len(there) < len(replies) else replies
    times, odd = _event_times([reply[end] for reply in found])
    values: dict[str, Values] = {}
    nulls: dict[str, Flags] = {}
    for run in view.runs:
        first, width = start + run.start, len(run.names)
        raw = list(chain.from_iterable(reply[first : first + width] for reply in found))
        decoded = decode(run.type, raw)
        table = decoded.values.reshape(len(found), width, *decoded.values.shape[1:])
        no_values = decoded.nulls.reshape(len(found), width)
        any_null = bool(decoded.nulls.any())
        odd |= decoded.unreadable.reshape(len(found), width).any(axis=1)
        for i, name in enumerate(run.names):
            values[name] = table[:, i]
            if any_null:
                nulls[name] = no_values[:, i]
    packed = view.codec.encode(values, nulls, times, WRITTEN_AT_UNKNOWN_TIME)
    for i, row, is_odd in zip(there, packed, odd.tolist(), strict=True):
        rows[i] = UNREADABLE if is_odd else row
    return rows


def _event_times(raw: Sequence[Raw]) -> tuple[Values, Flags]:
    """Microseconds, and which of them no timestamp said."""
    times = np.zeros(len(raw), np.int64)
    odd = np.zeros(len(raw), np.bool_)
    for i, one in enumerate(raw):
        try:
            times[i] = event_time_us(one or b"")
        except RowError:
            odd[i] = True
    return times, odd
