"""How good each value of a joined request is.

Decides the words only. It must never decide what follows from them: views do (``on_missing`` and its kind), and the
owner of a model (``max_defaulted_fraction``).
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Of one value, or of the row that it came from. Small numbers, so that arrays hold them as ``uint8``."""

    PRESENT = 0
    """As it was written, and young enough."""
    NULL = 1
    """The row is there; this value was written as null."""
    MISSING = 2
    """The store has no row for the entity, or the request named none."""
    STALE = 3
    """Older than the view's ``max_age``."""
    DEFAULTED = 4
    """The store could not be asked in time and no copy was at hand."""
    ERROR = 5
    """There is a row, and it cannot be read: corrupted, or of an unknown schema."""
