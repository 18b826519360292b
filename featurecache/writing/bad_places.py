"""Rows of a view's files that the loader would not load: where they are, and whether that stops what was asked.

Decides nothing about a row: ``ParquetView`` judges, for loads as well. So loads, training sets and comparisons mean the
same by a bad row. It must never look at more than the first pass of a load does.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from featurecache.errors import RowError
from featurecache.offline.parquet_files import FILE_STRIDE
from featurecache.writing.parquet_source import BadRow, ParquetView

MAX_TOLD_BAD_ROWS = 10
MAX_SKIPPED_ROWS = 10_000_000
"""Of one view: their places are held in memory, 8 bytes each."""
ANY_TIME_US = 2**53
"""For who asks about the past: then no event time is too far in the future."""

OnBadRow: TypeAlias = Literal["refuse", "skip"]
Places: TypeAlias = npt.NDArray[np.int64]
"""File number * ``FILE_STRIDE`` + row of the file, growing."""


class BadPlaces(msgspec.Struct):
    """The bad rows of one view."""

    rows: int
    places: Places
    told: list[BadRow]
    """Some of them."""


def bad_places(source: ParquetView, now_us: int) -> BadPlaces:
    """Looks at every key, time and doubtful value. Raises ``RowError`` for files that cannot be read."""
    found: list[Places] = []
    told: list[BadRow] = []
    total = 0
    for number, file in enumerate(source.files):
        before = number * FILE_STRIDE
        for group, group_rows in enumerate(file.group_rows):
            start = before
            for chunk in source.check(file, group, now_us):
                if chunk.bad_rows:
                    found.append(start + chunk.bad_places)
                    told += chunk.bad[: MAX_TOLD_BAD_ROWS - len(told)]
                    total += chunk.bad_rows
                    if total > MAX_SKIPPED_ROWS:
                        raise RowError(
                            f"view '{source.view.name}': more than {MAX_SKIPPED_ROWS:,} rows cannot be rows of the "
                            f"store; the first is {told[0]}"
                        )
                start += chunk.rows
            before += group_rows
    places = np.concatenate(found) if found else np.zeros(0, np.int64)
    return BadPlaces(total, places, told)


def sound_places(source: ParquetView, now_us: int, on_bad_row: OnBadRow) -> Places:
    """The places of rows to leave out; ``RowError`` naming them when bad rows are not to be left out."""
    bad = bad_places(source, now_us)
    if bad.rows and on_bad_row == "refuse":
        listed = "".join(f"\n  - {one}" for one in bad.told)
        more = "" if bad.rows <= len(bad.told) else "\n  - …"
        raise RowError(
            f"view '{source.view.name}': {bad.rows} of {source.rows} rows cannot be rows of the store; "
            f"mend them, or leave them out with --on-bad-row skip, as `load` does:{listed}{more}"
        )
    return bad.places


def by_file(source: ParquetView, places: Places) -> dict[str, Places]:
    """Path → numbers of rows of that file; files without any are left out."""
    files = places // FILE_STRIDE
    return {
        str(file.path): places[files == number] % FILE_STRIDE
        for number, file in enumerate(source.files)
        if (files == number).any()
    }
