"""What a caller sent and what the store had, made into a model's inputs.

Decides which rows a request needs and in which order everything is put together; ``view_use.py`` decides what an
unusable row becomes, ``assembly.py`` where each value goes. A request is judged by itself and carries its rows into
its batch; there the values of all of them are moved at once. It must never wait, nor ask a store: ``lookup.py`` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

import msgspec
import numpy as np

from featurecache.columns import ColumnType, Values, parse_type
from featurecache.errors import DefinitionError, RowError
from featurecache.joining.assembly import ModelInput, Tensor
from featurecache.joining.glance import Glance
from featurecache.joining.planning import (
    client_inputs,
    key_origins,
    key_places,
    needed_functions,
    tensor_plans,
    view_uses,
)
from featurecache.joining.view_use import Usable
from featurecache.lookups.lookup_waiting import Lookup, ViewKeys
from featurecache.manifests.manifest import FeatureRef, Manifest, OnDemandSpec, ServiceSpec
from featurecache.manifests.needs import key_types, needed_refs
from featurecache.rows.codec import RowTable
from featurecache.rows.keys import are_plain, escape

MAX_ROWS = 10_000
"""Of one request; each of them is a row of the store per view."""

_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,19}\s*").fullmatch

Context: TypeAlias = Sequence[str | int | float | bool | None]
"""Values of the wanted parameters, then of the wanted headers; None where the request has none."""


class Functions(Protocol):
    """The functions of on-demand features."""

    def compute(self, name: str, columns: list[Values]) -> Values:
        """One call for the whole batch."""
        ...


class Wanted(msgspec.Struct, gc=False):
    """The rows that a request needs."""

    views: list[ViewKeys]
    """In the order of the plan's uses; without the rows of entities that the request leaves empty."""
    rows: int
    gaps: dict[int, list[int]]
    """By use: rows of the request that name no entity."""
    keys: dict[str, Values]
    """Join keys that are features themselves and came beside the tensors: ``(rows, 1)``."""
    glance: Glance | None = None
    """Which told the keys at a glance, and should hear of good rows."""


class Completed(msgspec.Struct, gc=False):
    """The rows of one request, each of them fit for the model."""

    views: list[Usable]
    """In the order of the plan's uses."""
    rows: int
    defaulted_values: int
    """Values of views that stand in for what could not be had; nulls, which were written as such, do not count."""
    values: int
    """Values of views altogether."""

    @property
    def defaulted_fraction(self) -> float:
        """0.0 … 1.0; 0.0 when the model uses no views."""
        return self.defaulted_values / self.values if self.values else 0.0


class Filled(Completed, gc=False):
    """The same, and the model's inputs."""

    tensors: tuple[Tensor, ...]
    """In the model's order."""


class ServicePlan:
    """A feature service, made ready for one model."""

    __slots__ = (
        "_carried_keys",
        "_computed",
        "_functions",
        "_key_types",
        "_named_inputs",
        "_names",
        "_row_values",
        "_use_numbers",
        "_values",
        "_vector_inputs",
        "client_inputs",
        "glance",
        "headers",
        "keys",
        "parameters",
        "service",
        "tensors",
        "uses",
    )

    def __init__(
        self,
        manifest: Manifest,
        service: ServiceSpec,
        model_inputs: Sequence[ModelInput],
        key_sources: Mapping[str, str],
        functions: Functions | None = None,
    ) -> None:
        """``key_sources``: join key → ``input:NAME``, ``parameter:NAME`` or ``header:NAME``; an input of the key's own
        name where nothing is said. Raises ``DefinitionError`` when service, model and sources do not fit.
        """
        self.service = service
        refs = needed_refs(manifest, service)
        types = {key: parse_type(text) for key, text in key_types(manifest, service).items()}
        self._key_types = types
        self.uses, self._use_numbers = view_uses(manifest, refs)
        self._computed = needed_functions(manifest, refs)
        self._functions = functions
        if self._computed and functions is None:
            raise DefinitionError(f"on-demand feature '{self._computed[0].name}' needs its code")
        sources = key_origins(types, key_sources)
        self.parameters = tuple(one.name for one in sources.values() if one.kind == "parameter")
        self.headers = tuple(one.name.lower() for one in sources.values() if one.kind == "header")
        inputs = list(dict.fromkeys(ref.name for ref in refs if ref.kind == "input"))
        self._vector_inputs = frozenset(
            name for name in inputs if manifest.input(name).parsed.length
        )
        self.client_inputs = client_inputs(
            model_inputs,
            [
                (source.name, types[key])
                for key, source in sources.items()
                if source.kind == "input"
            ],
            [(name, manifest.input(name).parsed) for name in inputs],
        )
        self.keys = key_places(sources)
        self.tensors = tensor_plans(
            manifest, service, model_inputs, self._use_numbers, self.uses, types
        )
        self._row_values = [len(use.columns) for use in self.uses]
        self._values = sum(self._row_values)
        features = {ref.name for ref in refs if ref.kind == "key"}
        self._carried_keys = [
            key for key, _, kind in self.keys if key in features and kind != "input"
        ]
        """Keys that are features and come beside the tensors."""
        first = len(self.client_inputs) - len(inputs)
        self._named_inputs = [
            (("key", key), place)
            for key, place, kind in self.keys
            if key in features and kind == "input"
        ] + [(("input", name), place) for place, name in enumerate(inputs, first)]
        self._names = [name for name, _ in self._named_inputs]
        self._names += [("key", key) for key in self._carried_keys]
        """Of what a request carries behind its rows."""
        places = {key: place for key, place, kind in self.keys if kind == "input"}
        self.glance = (
            Glance(self.uses, places, [place for _, place in self._named_inputs])
            if self.uses and len(places) == len(self.keys)
            else None
        )
        """The short way for requests that are like most; None where no request can be."""

    # -- before the lookup ----------------------------------------------------------------------------

    def wanted(self, inputs: Sequence[Tensor], context: Context) -> Wanted:
        """The rows that a request needs. ``inputs`` in the order of ``client_inputs``, each ``(rows, n)``.

        Raises ``RowError`` for keys that cannot be one, and for inputs that disagree about the number of rows.
        """
        rows = len(inputs[0]) if inputs else 1
        if rows > MAX_ROWS:
            raise RowError(f"{rows} rows: at most {MAX_ROWS} can be looked up in one request")
        for one in inputs:
            if len(one) != rows:
                raise RowError("the inputs have different numbers of rows")
        ids: dict[str, Sequence[bytes | None]] = {}
        keys: dict[str, Values] = {}
        for key, place, kind in self.keys:
            if kind == "input":
                ids[key] = _parts(key, inputs[place].reshape(rows).tolist())
            else:
                type_ = self._key_types[key]
                value = context[place if kind == "parameter" else place + len(self.parameters)]
                constant = _typed(key, type_, value)
                ids[key] = list(_parts(key, [constant])) * rows
                if key in self._carried_keys:
                    keys[key] = _constant(key, type_, constant, rows)
        gaps: dict[int, list[int]] = {}
        views = []
        for number, use in enumerate(self.uses):
            found = (
                ids[use.keys[0]] if len(use.keys) == 1 else _joined([ids[key] for key in use.keys])
            )
            if None in found:
                gaps[number] = [i for i, one in enumerate(found) if one is None]
                found = [one for one in found if one is not None]
            views.append(ViewKeys(use.caching, use.row_keys(found)))  # type: ignore[arg-type]  # no None is left
        return Wanted(views, rows, gaps, keys)

    # -- behind it ------------------------------------------------------------------------------------

    def complete(self, wanted: Wanted, found: Lookup, now_us: int) -> Completed:
        """The rows that one request goes on with. ``now_us``: µs since 1970, by which rows have their age.

        Raises ``UnfillableError`` where nothing may stand in for a value.
        """
        if len(self.uses) == 1 and not wanted.gaps:
            views = [self.uses[0].usable(found.rows, found.aged, now_us)]
        else:
            views = self._usable_each(wanted, found, now_us)
        defaulted = 0
        for view, values in zip(views, self._row_values, strict=True):
            if view.defaulted_rows:
                defaulted += view.defaulted_rows * values
        return Completed(views, wanted.rows, defaulted, wanted.rows * self._values)

    def _usable_each(self, wanted: Wanted, found: Lookup, now_us: int) -> list[Usable]:
        views: list[Usable] = []
        start = 0
        for number, use in enumerate(self.uses):
            end = start + len(wanted.views[number].keys)
            mine = found.rows[start:end]
            aged = {i - start for i in found.aged if start <= i < end} if found.aged else ()
            start = end
            missing = wanted.gaps.get(number)
            if missing:
                mine, aged = _with_gaps(mine, aged, missing, wanted.rows)
            views.append(use.usable(mine, aged, now_us))
        return views

    def carried(
        self, inputs: Sequence[Tensor], wanted: Wanted, completed: Completed
    ) -> tuple[Tensor, ...]:
        """What a request takes along into its batch: its rows, and of what the client sent that which is a feature.

        All of them ``(rows, n)``, so that many requests can be joined and cut like any tensors.
        """
        rows = np.empty((completed.rows, len(self.uses)), np.object_)
        for number, view in enumerate(completed.views):
            rows[:, number] = view.rows
        if not self._names:
            return (rows,)
        sent = [inputs[place] for _, place in self._named_inputs]
        return (rows, *sent, *[wanted.keys[key] for key in self._carried_keys])

    # -- in the batch ---------------------------------------------------------------------------------

    def build(self, carried: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The model's inputs for what one request carried, or many, joined.

        Raises ``FeatureError`` when an on-demand function fails.
        """
        matrix, *others = carried
        rows = len(matrix)
        tables = [use.table(matrix[:, number].tolist()) for number, use in enumerate(self.uses)]
        named = dict(zip(self._names, others, strict=True))
        for spec in self._computed:
            self._compute(spec, tables, named)
        return tuple([plan.build(rows, tables, named) for plan in self.tensors])

    def fill(self, inputs: Sequence[Tensor], wanted: Wanted, found: Lookup, now_us: int) -> Filled:
        """All of it at once, for one request outside of any batch."""
        done = self.complete(wanted, found, now_us)
        tensors = self.build(self.carried(inputs, wanted, done))
        return Filled(done.views, done.rows, done.defaulted_values, done.values, tensors)

    def _compute(
        self,
        spec: OnDemandSpec,
        tables: Sequence[RowTable],
        named: dict[tuple[str, str], Values],
    ) -> None:
        assert self._functions is not None
        columns = [self._column(ref, tables, named) for ref in spec.inputs]
        named["on_demand", spec.name] = self._functions.compute(spec.name, columns)

    def _column(
        self,
        ref: FeatureRef,
        tables: Sequence[RowTable],
        named: Mapping[tuple[str, str], Values],
    ) -> Values:
        if ref.kind == "view":
            return tables[self._use_numbers[ref.use]].column(ref.column)
        column = named[ref.kind, ref.name]
        is_single = ref.kind != "on_demand" and ref.name not in self._vector_inputs
        return column[:, 0] if is_single else column


def _parts(key: str, values: Sequence[bytes | int]) -> Sequence[bytes | None]:
    """Key values as parts of ids; None for empty ones."""
    if values and isinstance(values[0], int):
        return [b"%d" % one for one in cast("Sequence[int]", values)]
    texts = cast("Sequence[bytes]", values)
    try:
        if are_plain(texts):
            return texts
        return [escape(one) if one else None for one in texts]
    except RowError as error:
        raise RowError(f"key '{key}': {error}") from None


def _typed(key: str, type_: ColumnType, value: object) -> bytes | int:
    """A key out of a parameter or header; b"" when there is none."""
    if value is None or value == "":
        return b""
    if type_.is_string:
        if isinstance(value, str):
            try:
                return value.encode()
            except UnicodeEncodeError:
                raise RowError(f"key '{key}' is no UTF-8") from None
    else:
        number = int(value) if isinstance(value, str) and _INTEGER(value) else value
        info = np.iinfo(type_.dtype)
        if (
            isinstance(number, int)
            and not isinstance(number, bool)
            and info.min <= number <= info.max
        ):
            return number
    raise RowError(f"key '{key}' is {str(value)[:80]!r}, and must be of type {type_}")


def _constant(key: str, type_: ColumnType, one: bytes | int, rows: int) -> Values:
    if one == b"" and not type_.is_string:
        raise RowError(f"key '{key}' is missing, and the model takes it as a value")
    column = np.empty((rows, 1), np.object_ if type_.is_string else type_.dtype)
    column[:] = one
    return column


def _joined(parts: Sequence[Sequence[bytes | None]]) -> Sequence[bytes | None]:
    """Ids of several parts each; None where a part is empty."""
    rows: Iterable[tuple[bytes | None, ...]] = zip(*parts, strict=True)
    return [None if None in row else b"|".join(row) for row in rows]  # type: ignore[arg-type]


def _with_gaps(
    rows: list[bytes | None], aged: Any, missing: Sequence[int], count: int
) -> tuple[list[bytes | None], set[int]]:
    """Rows and places as they stand once the rows that name no entity are put back."""
    gone = set(missing)
    places = [i for i in range(count) if i not in gone]
    spread: list[bytes | None] = [None] * count
    for place, row in zip(places, rows, strict=True):
        spread[place] = row
    return spread, {places[i] for i in aged}
