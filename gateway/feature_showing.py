"""Features of some entities as people and checkers see them: what was asked, and how the answer looks.

Decides which rows a question needs and how values, statuses, times and refusals are told. Values go through the same
``ViewUse`` as a prediction's, so that they are what a model would get: a default stands where a prediction would have
it. It must never wait or ask a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from featurecache.columns import ColumnType, Values, parse_type
from featurecache.errors import FeatureError, RowError
from featurecache.joining.on_demand import Functions
from featurecache.joining.planning import needed_functions, view_uses
from featurecache.lookups.lookup import Lookup, ViewKeys
from featurecache.manifests.manifest import FeatureRef, Manifest
from featurecache.manifests.needs import key_types, needed_refs
from featurecache.rows.codec import RowTable
from featurecache.rows.json_rows import value_of
from featurecache.rows.keys import ids_of
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.feature_view_showing import SeenView, json_values

MAX_ROWS = 1000
MAX_VALUES = 200_000
"""Rows times elements of the features that are shown."""
MAX_ROW_BYTES = 4 * 1024 * 1024
"""Of the rows that an answer is made of."""


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """Whose features, column by column."""

    keys: dict[str, list[Any]] = {}
    inputs: dict[str, list[Any]] = {}
    """Request-time values, for on-demand features that need them."""


class Question:
    """One question, checked."""

    def __init__(self, manifest: Manifest, kind: str, name: str, asked: Any) -> None:
        """``kind`` is "service" or "view". Raises NOT_FOUND for an unknown name, INVALID_ARGUMENT for the rest."""
        self.manifest = self._manifest = manifest
        self.shown, self._needed, self._key_types = _what(manifest, kind, name)
        try:
            told = msgspec.convert(asked, Asked)
        except msgspec.ValidationError as error:
            raise invalid(
                f'ask like {{"keys": {{"KEY": [value, …]}}, "inputs": {{…}}}}: {error}'
            ) from None
        self._kind, self._name = kind, name
        self.uses, self._use_numbers = view_uses(manifest, self._needed)
        self.computed = needed_functions(manifest, self._needed)
        self._check_names(told)
        self.rows = _row_count([*told.keys.items(), *told.inputs.items()])
        self._check_size()
        try:
            self._keys = {
                key: [_key(type_, one, key) for one in told.keys[key]]
                for key, type_ in self._key_types.items()
            }
            self._inputs = {
                name: _column(manifest.input(name).parsed, values, name)
                for name, values in told.inputs.items()
            }
            self._gaps, self.views = self._rows_of_entities()
        except RowError as error:
            raise invalid(str(error)) from None

    def _check_names(self, told: Asked) -> None:
        what = f"{self._kind} '{self._name}'"
        for key in self._key_types:
            if key not in told.keys:
                raise invalid(f"{what} is asked by {', '.join(self._key_types)}: keys lack '{key}'")
        for key in told.keys:
            if key not in self._key_types:
                raise invalid(f"{what} has no join key '{key}': {', '.join(self._key_types)}")
        inputs = {ref.name for ref in self._needed if ref.kind == "input"}
        for name in told.inputs:
            if name not in inputs:
                raise invalid(
                    f"{what} has no request-time input '{name}': {', '.join(sorted(inputs)) or 'none'}"
                )

    def _check_size(self) -> None:
        if self.rows > MAX_ROWS:
            raise invalid(f"{self.rows} rows: at most {MAX_ROWS} are shown at once")
        values = self.rows * sum(self._type_of(ref).elements for ref in self.shown)
        if values > MAX_VALUES:
            raise invalid(
                f"{values} values: at most {MAX_VALUES} are shown at once; ask for fewer rows"
            )

    def _rows_of_entities(self) -> tuple[list[list[int]], list[ViewKeys]]:
        """By use: rows that name no entity, and the names of the rows of all others."""
        gaps, views = [], []
        for use in self.uses:
            parts = [self._keys[key] for key in use.keys]
            missing = [i for i in range(self.rows) if any(part[i] is None for part in parts)]
            gone = set(missing)
            named: list[list[bytes | int]] = [
                [one for i, one in enumerate(part) if i not in gone and one is not None]
                for part in parts
            ]
            gaps.append(missing)
            views.append(ViewKeys(use.caching, use.row_keys(ids_of(named))))
        return gaps, views

    # -- the answer -------------------------------------------------------------------------------

    def answer(self, found: Lookup, now_us: int, functions: Functions) -> dict[str, Any]:
        """Plain values. ``functions`` are those of the manifest."""
        if sum(len(row) for row in found.rows if row) > MAX_ROW_BYTES:
            raise invalid(f"the rows have more than {MAX_ROW_BYTES} bytes; ask for fewer at once")
        seen, start = [], 0
        for number, use in enumerate(self.uses):
            end = start + len(self.views[number].keys)
            aged = {i - start for i in found.aged if start <= i < end}
            rows = list(found.rows[start:end])
            start = end
            for place in self._gaps[number]:  # in order, so those behind it move up
                rows.insert(place, None)
                aged = {i + (i >= place) for i in aged}
            seen.append(SeenView(use, rows, aged, now_us))
        made = self._compute(seen, functions)
        return {
            "project": self._manifest.project,
            "revision": self._manifest.revision,
            "digest": self._manifest.digest,
            self._kind: self._name,
            "rows": self.rows,
            "features": [self._feature(ref, seen, made) for ref in self.shown],
            "views": [one.told() for one in seen],
        }

    def _feature(
        self, ref: FeatureRef, seen: Sequence[SeenView], made: Mapping[str, dict[str, Any]]
    ) -> dict[str, Any]:
        type_ = self._type_of(ref)
        told: dict[str, Any] = {"name": str(ref), "kind": ref.kind, "type": str(type_)}
        if ref.kind == "view":
            view = seen[self._use_numbers[ref.use]]
            return told | {
                "values": view.values(ref.column, type_),
                "statuses": view.value_statuses(ref.column),
            }
        if ref.kind == "on_demand":
            return told | made[ref.name]
        if ref.kind == "key":
            given = [
                one.decode() if isinstance(one, bytes) else one for one in self._keys[ref.name]
            ]
            return told | {"values": given}
        column = self._inputs.get(ref.name)
        if column is None:
            return told | {"values": [None] * self.rows, "why": "it was not given under inputs"}
        return told | {"values": json_values(type_, column)}

    def _compute(self, seen: Sequence[SeenView], functions: Functions) -> dict[str, dict[str, Any]]:
        """By on-demand feature: its values, or nulls and why. Rows that a prediction would refuse have none."""
        whole = [i for i in range(self.rows) if not any(i in one.refused for one in seen)]
        tables = [one.table_of(whole) for one in seen] if whole else []
        columns: dict[tuple[str, str], Values] = {
            ("input", name): column[whole] for name, column in self._inputs.items()
        }
        for key, type_ in self._key_types.items():
            if None not in self._keys[key]:
                columns["key", key] = _column(type_, self._keys[key], key)[whole]
        made: dict[str, Any] = {}
        for spec in self.computed:
            values: list[Any] = [None] * self.rows
            try:
                if whole:
                    given = [self._given(ref, tables, columns) for ref in spec.inputs]
                    column = columns["on_demand", spec.name] = functions.compute(spec.name, given)
                    for place, value in zip(whole, json_values(spec.parsed, column), strict=True):
                        values[place] = value
                made[spec.name] = {"values": values}
            except FeatureError as error:
                made[spec.name] = {"values": values, "why": str(error)}
        return made

    def _given(
        self,
        ref: FeatureRef,
        tables: Sequence[RowTable],
        columns: Mapping[tuple[str, str], Values],
    ) -> Values:
        """One argument of an on-demand function."""
        if ref.kind == "view":
            return tables[self._use_numbers[ref.use]].column(ref.column)
        found = columns.get((ref.kind, ref.name))
        if found is None:
            kind = {"input": "input", "key": "key"}.get(ref.kind, "on-demand feature")
            raise FeatureError(f"it needs {kind} '{ref.name}', which has no values")
        return found

    def _type_of(self, ref: FeatureRef) -> ColumnType:
        if ref.kind == "view":
            return self._manifest.view(ref.name).column(ref.column).parsed
        if ref.kind == "input":
            return self._manifest.input(ref.name).parsed
        if ref.kind == "key":
            return self._key_types[ref.name]
        return self._manifest.on_demand_feature(ref.name).parsed


def _what(
    manifest: Manifest, kind: str, name: str
) -> tuple[list[FeatureRef], list[FeatureRef], dict[str, ColumnType]]:
    """What is shown, what that needs, and by which keys it is asked."""
    try:
        if kind == "view":
            view = manifest.view(name)
            refs = [FeatureRef("view", name, one.name) for one in view.columns]
            types = manifest.entity(view.entity).keys
            return refs, refs, {key: parse_type(text) for key, text in types.items()}
        service = manifest.service(name)
    except FeatureError as error:
        raise HeadraceError(ErrorCode.NOT_FOUND, str(error)) from None
    types = key_types(manifest, service)
    parsed = {key: parse_type(text) for key, text in types.items()}
    return service.refs, needed_refs(manifest, service), parsed


def _key(type_: ColumnType, value: Any, name: str) -> bytes | int | None:
    """A part of an id; None for null and "", which name no entity."""
    found: bytes | int | None = value_of(type_, value, name)
    return None if found == b"" else found


def _row_count(columns: Sequence[tuple[str, list[Any]]]) -> int:
    if not columns:
        raise invalid("give at least one key or input: nothing says how many rows there are")
    first, rows = columns[0][0], len(columns[0][1])
    for name, values in columns:
        if len(values) != rows:
            raise invalid(f"'{first}' has {rows} values, '{name}' has {len(values)}")
    return rows


def _column(type_: ColumnType, values: Sequence[Any], name: str) -> Values:
    """Values as an on-demand function takes them; null is NaN where there is one."""
    read = [one if isinstance(one, bytes) else value_of(type_, one, name) for one in values]
    if None in read and not type_.is_float:
        raise RowError(f"'{name}' is null in row {read.index(None) + 1}")
    if type_.is_string:
        column = np.empty(len(read), np.object_)
        column[:] = read
        return column
    gap = [np.nan] * type_.length if type_.length else np.nan
    listed = [gap if one is None else one for one in read]
    return np.array(listed, type_.dtype).reshape(type_.shape(len(read)))
