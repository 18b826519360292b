"""What a view's row of long ago becomes in a training set, by the same words as online.

Decides status, defaults and refusals of each value (``max_age``, ``retention``, ``on_missing``, ``on_stale``,
``on_null``) as the gateway would at the spine row's time, and how the columns are called. It must never read a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from featurecache.columns import Int64, Values, parse_type
from featurecache.errors import RowError
from featurecache.manifests.manifest import FeatureRef, Manifest
from featurecache.offline.arrow_columns import Mask, read_column
from featurecache.offline.arrow_values import Array
from featurecache.offline.point_in_time import JoinKey
from featurecache.rows.codec import default_column
from featurecache.status import Status

Use: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""A view and how it is asked: see ``FeatureRef.use``."""


class Counts(msgspec.Struct):
    """How many values of one column were not as they were written."""

    null: int = 0
    missing: int = 0
    stale: int = 0
    """Too old; replaced, unless the view says "use"."""
    defaulted: int = 0
    """Of all three: those for which something else stands in."""


class Judged(msgspec.Struct):
    """One view's columns for some rows of the spine."""

    values: dict[str, Values]
    statuses: npt.NDArray[np.uint8]
    """Of the rows: PRESENT, MISSING or STALE."""
    refused: dict[str, Mask]
    """Why → the rows for which a request would fail."""


class JoinedView:
    """One view as one service asks it, over time."""

    def __init__(self, manifest: Manifest, use: Use, columns: Sequence[str]) -> None:
        renamed = dict(use[1])
        self.use = use
        self.spec = spec = manifest.view(use[0])
        self.columns = list(columns)
        self.counts = {name: Counts() for name in columns}
        self.keys = [
            JoinKey(renamed.get(own, own), own, parse_type(type_))
            for own, type_ in manifest.entity(spec.entity).keys.items()
        ]
        self.status_column = f"{use_name(spec.name, renamed)}__status"
        self._max_age_us = inf if spec.max_age_s is None else spec.max_age_s * 1e6
        self._retention_us = inf if spec.retention_s is None else spec.retention_s * 1e6
        without = [
            name
            for name in columns
            if spec.column(name).default is None and not spec.column(name).parsed.is_float
        ]
        self._needs_row = without[0] if without else ""

    def judge(self, age: Array, columns: Sequence[Array]) -> Judged:
        """``age``: an Arrow column of µs, null where no row was known; ``columns``: Arrow columns, in order.

        Raises ``RowError`` for a value that is none of its declared type.
        """
        ages, unknown = read_column(Int64, age)
        missing = unknown | (ages > self._retention_us)  # the store would have forgotten it
        stale = ~missing & (ages > self._max_age_us)
        replaced = missing if self.spec.on_stale == "use" else missing | stale
        statuses = np.zeros(len(missing), np.uint8)
        statuses[missing], statuses[stale] = Status.MISSING, Status.STALE
        judged = Judged({}, statuses, self._refused(missing, stale))
        for name, column in zip(self.columns, columns, strict=True):
            judged.values[name] = self._column(name, column, replaced, judged)
            counts = self.counts[name]
            counts.missing += int(missing.sum())
            counts.stale += int(stale.sum())
            counts.defaulted += int(replaced.sum())
        return judged

    def _column(self, name: str, column: Array, replaced: Mask, judged: Judged) -> Values:
        spec = self.spec.column(name)
        type_ = spec.parsed
        try:
            values, nulls = read_column(type_, column)
        except RowError as error:
            raise RowError(f"column '{self.spec.name}.{name}': {error}") from None
        nulls = nulls & ~replaced
        counts = self.counts[name]
        filled = replaced
        if nulls.any():
            counts.null += int(nulls.sum())
            counts.defaulted += int(nulls.sum())
            if self.spec.on_null == "fail":
                judged.refused[f"feature '{self.spec.name}.{name}' is null"] = nulls
            elif spec.default is None and not type_.is_float:
                why = f"feature '{self.spec.name}.{name}' is null and has no default"
                judged.refused[why] = nulls
            filled = replaced | nulls
        if filled.any():
            values = values.copy()
            values[filled] = default_column(type_, spec.default, 1)[0]
        return values

    def _refused(self, missing: Mask, stale: Mask) -> dict[str, Mask]:
        spec, refused = self.spec, {}
        needs = f", and its column '{self._needs_row}' has no default" if self._needs_row else ""
        if missing.any() and (spec.on_missing == "fail" or needs):
            refused[f"view '{spec.name}' has no row{needs}"] = missing
        if stale.any() and (spec.on_stale == "fail" or (needs and spec.on_stale != "use")):
            refused[f"view '{spec.name}' has only a row older than its max_age{needs}"] = stale
        return refused


def joined_views(manifest: Manifest, refs: Sequence[FeatureRef]) -> list[JoinedView]:
    """The views behind the references, each once per way of asking."""
    columns: dict[Use, dict[str, None]] = {}
    for ref in refs:
        if ref.kind == "view":
            columns.setdefault(ref.use, {})[ref.column] = None
    return [JoinedView(manifest, use, list(wanted)) for use, wanted in columns.items()]


def use_name(view: str, renamed: Mapping[str, str]) -> str:
    """``weather``, or ``weather_origin_dest`` when it is asked by other keys."""
    return view + "".join(f"_{own}_{asked}" for own, asked in sorted(renamed.items()))


def column_names(refs: Sequence[FeatureRef]) -> dict[str, str]:
    """Reference (as text) → column of the training set: ``view__column``, or the name of anything else; unique."""
    names: dict[str, str] = {}
    for ref in refs:
        if str(ref) in names:
            continue  # two tensors share it
        plain = f"{use_name(ref.name, ref.keys)}__{ref.column}" if ref.kind == "view" else ref.name
        name, number = plain, 2
        while name in names.values():
            name, number = f"{plain}_{number}", number + 1
        names[str(ref)] = name
    return names
