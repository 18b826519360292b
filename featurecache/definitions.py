"""What a data scientist writes: entities, feature views, request-time inputs, on-demand features, services.

Decides the words and checks each object by itself, at once, so that a mistake is told where it was written. What
clashes only together is ``compiling.py``'s to find. Nothing here reads data or a store.

    airport = Entity("airport", keys={"origin": String})
    weather = FeatureView(
        "airport_weather",
        entity=airport,
        source=ParquetSource("weather/*.parquet", event_time="known_at"),
        columns=[Column("temp", Float32), Column("sky", String, default="clear")],
        max_age="3h",
    )
    flights = FeatureService("flights", inputs=[Input("distance", Float32), weather["temp"]])
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from featurecache.columns import (
    Bool,
    ColumnType,
    Default,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    String,
    Timestamp,
    Vector,
    checked_default,
)
from featurecache.errors import DefinitionError
from featurecache.manifests.checking import (
    Duration,
    checked_kind,
    checked_name,
    checked_type,
    seconds,
    shown,
)
from featurecache.manifests.manifest import ColumnSpec, FeatureRef, Policy, SourceSpec, StalePolicy
from featurecache.rows.keys import KEY_KINDS
from featurecache.rows.schema import RowSchema

__all__ = [
    "Bool",
    "Column",
    "Entity",
    "FeatureService",
    "FeatureView",
    "Float32",
    "Float64",
    "Input",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "OnDemand",
    "ParquetSource",
    "Project",
    "String",
    "Timestamp",
    "Vector",
    "on_demand",
]


class Feature:
    """One value that a model can be given, and the object that it belongs to."""

    __slots__ = ("owner", "ref")

    def __init__(self, ref: FeatureRef, owner: Entity | FeatureView | Input | OnDemand) -> None:
        self.ref, self.owner = ref, owner

    def __repr__(self) -> str:
        return f"Feature({self.ref})"


class Project:
    """The name under which everything in one file of definitions lives; it stands in every key of the store."""

    def __init__(self, name: str) -> None:
        self.name = checked_name("project", name)


class Column:
    """A typed value of a view. Without ``default``, floats default to NaN and other types have none."""

    def __init__(
        self,
        name: str,
        type_: ColumnType,
        /,
        *,
        default: Default = None,
        description: str = "",
    ) -> None:
        self.name = checked_name("column", name)
        self.type = checked_type(type_, f"column '{name}'")
        try:
            self.default = checked_default(type_, default)
        except DefinitionError as error:
            raise DefinitionError(f"column '{name}': {error}") from None
        self.description = description

    @property
    def spec(self) -> ColumnSpec:
        """As the manifest has it."""
        return ColumnSpec(self.name, str(self.type), self.default, self.description)


class Input:
    """A value that comes with the request."""

    def __init__(self, name: str, type_: ColumnType, /, *, description: str = "") -> None:
        self.name = checked_name("input", name)
        self.type = checked_type(type_, f"input '{name}'")
        self.description = description

    @property
    def spec(self) -> ColumnSpec:
        """As the manifest has it."""
        return ColumnSpec(self.name, str(self.type), None, self.description)


class ParquetSource:
    """Parquet files below the data folder, as a path or pattern; ``event_time`` is when a row became known."""

    def __init__(self, path: str, /, *, event_time: str) -> None:
        if not checked_kind("source", path, str) or path.startswith("/") or ".." in path.split("/"):
            raise DefinitionError(f"source '{path}': a path below the data folder, without '..'")
        if not checked_kind(f"event time of source '{path}'", event_time, str):
            raise DefinitionError(f"source '{path}': `event_time` names the column with the time")
        self.spec = SourceSpec(path, event_time)


class Entity:
    """What rows are about, found by its keys: ``Entity("route", keys={"origin": String, "dest": String})``."""

    def __init__(self, name: str, *, keys: Mapping[str, ColumnType], description: str = "") -> None:
        self.name = checked_name("entity", name)
        if not isinstance(keys, Mapping) or not keys:
            raise DefinitionError(f"entity '{name}' has no keys; write keys={{'id': String}}")
        for key, type_ in keys.items():
            checked_name("key", key)
            if str(checked_type(type_, f"key '{key}'")) not in KEY_KINDS:
                raise DefinitionError(
                    f"key '{key}' of entity '{name}' is {type_}; keys are {', '.join(KEY_KINDS)}"
                )
        self.keys = dict(keys)
        self.description = description

    def __getitem__(self, key: str) -> Feature:
        """A key as a value of its own, for services and on-demand features."""
        if key not in self.keys:
            raise DefinitionError(
                f"entity '{self.name}' has no key '{key}': {', '.join(self.keys)}"
            )
        return Feature(FeatureRef("key", key), self)


class FeatureView:
    """Typed columns about one entity, known from one moment on.

    ``max_age``: how old a row may be and still be used. ``retention``: when the store may forget it. ``cache_ttl``: how
    long a gateway may keep a copy. ``stale_if_error``: how much older than ``max_age`` a copy may be while the store
    fails. Durations as ``"90s"``, ``"5m"``, ``"3h"``, ``"7d"``, or seconds; None: without end (for the last two: 0).
    """

    def __init__(
        self,
        name: str,
        *,
        entity: Entity,
        columns: Sequence[Column],
        source: ParquetSource | None = None,
        max_age: Duration = None,
        retention: Duration = None,
        cache_ttl: Duration = 0,
        stale_if_error: Duration = 0,
        on_missing: Policy = "default",
        on_stale: StalePolicy = "default",
        on_null: Policy = "default",
        owner: str = "",
        description: str = "",
        tags: Mapping[str, str] | None = None,
        pii: bool = False,
    ) -> None:
        self.name = checked_name("feature view", name)
        where = f"view '{name}'"
        self.entity = checked_kind(f"{where}, entity", entity, Entity)
        self.columns = [checked_kind(f"{where}, columns", one, Column) for one in columns]
        self.source = (
            None if source is None else checked_kind(f"{where}, source", source, ParquetSource).spec
        )
        self.max_age_s = seconds("max_age", max_age)
        self.retention_s = seconds("retention", retention)
        self.cache_ttl_s = seconds("cache_ttl", cache_ttl) or 0.0
        self.stale_if_error_s = seconds("stale_if_error", stale_if_error) or 0.0
        self.on_missing, self.on_stale, self.on_null = on_missing, on_stale, on_null
        self.owner, self.description, self.pii = owner, description, pii
        self.tags = dict(tags or {})
        self._check()

    def _check(self) -> None:
        names = [column.name for column in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DefinitionError(f"view '{self.name}' has column '{twice[0]}' twice")
        if not names:
            raise DefinitionError(f"view '{self.name}' has no columns")
        try:
            RowSchema([(column.name, column.type) for column in self.columns])
        except DefinitionError as error:
            raise DefinitionError(f"view '{self.name}': {error}") from None
        for key in self.entity.keys:
            if key in names:
                raise DefinitionError(f"view '{self.name}': '{key}' is a key and a column")
        for what, value, allowed in (
            ("on_missing", self.on_missing, ("default", "fail")),
            ("on_stale", self.on_stale, ("default", "use", "fail")),
            ("on_null", self.on_null, ("default", "fail")),
        ):
            if value not in allowed:
                raise DefinitionError(f"view '{self.name}': {what} is one of {', '.join(allowed)}")
        source = self.source
        if source is not None and source.event_time in (*names, *self.entity.keys):
            raise DefinitionError(
                f"view '{self.name}': event time '{source.event_time}' is a column or key as well"
            )
        if self.stale_if_error_s and not self.cache_ttl_s:
            raise DefinitionError(
                f"view '{self.name}': `stale_if_error` is for the copies that a gateway keeps, and without `cache_ttl` "
                "it keeps none; set `cache_ttl`, or leave `stale_if_error` out"
            )
        if self.retention_s is not None:
            if self.max_age_s is None:
                raise DefinitionError(
                    f"view '{self.name}': rows that the store forgets after `retention` need a `max_age`"
                )
            if self.retention_s < self.max_age_s + self.stale_if_error_s:
                raise DefinitionError(
                    f"view '{self.name}': `retention` is shorter than `max_age` + `stale_if_error`"
                )

    def __getitem__(self, column: str) -> Feature:
        """One column, as a service names it."""
        if all(one.name != column for one in self.columns):
            have = ", ".join(one.name for one in self.columns)
            raise DefinitionError(f"view '{self.name}' has no column '{column}': {have}")
        return Feature(FeatureRef("view", self.name, column), self)

    def all(self) -> list[Feature]:
        """Every column, in order."""
        return [self[column.name] for column in self.columns]

    def by(self, **keys: str) -> ViewByOtherKeys:
        """The view asked by other join keys: ``weather.by(origin="dest")["temp"]`` is the weather there."""
        return ViewByOtherKeys(self, keys)


class ViewByOtherKeys:
    """A view whose join keys have other names in one service."""

    def __init__(self, view: FeatureView, keys: Mapping[str, str]) -> None:
        for own, asked in keys.items():
            if own not in view.entity.keys:
                raise DefinitionError(f"view '{view.name}' has no join key '{own}'")
            checked_name("key", asked)
        # A name that stays is no other name: it would be asked twice, once under each.
        self.view, self.keys = view, {own: asked for own, asked in keys.items() if own != asked}

    def __getitem__(self, column: str) -> Feature:
        ref = self.view[column].ref
        return Feature(FeatureRef(ref.kind, ref.name, ref.column, self.keys), self.view)

    def all(self) -> list[Feature]:
        """Every column, in order."""
        return [self[column.name] for column in self.view.columns]


class OnDemand:
    """A function over whole columns, run when a request comes; made by ``on_demand``."""

    def __init__(
        self, function: Callable[..., Any], inputs: Sequence[Feature], output: Column
    ) -> None:
        self.function, self.inputs = function, list(inputs)
        self.output = checked_kind("on-demand feature, output", output, Column)
        self.name = output.name
        if not self.inputs:
            raise DefinitionError(
                f"on-demand feature '{self.name}' has no inputs, so no number of rows"
            )
        try:
            inspect.signature(function).bind(*self.inputs)
        except TypeError as error:
            raise DefinitionError(
                f"on-demand feature '{self.name}': its function is given {len(self.inputs)} arrays ({error})"
            ) from None
        self.__doc__ = function.__doc__

    def __call__(self, *columns: Any) -> Any:
        return self.function(*columns)


Named: TypeAlias = Feature | Input | OnDemand


def on_demand(
    *, inputs: Sequence[Named], output: Column
) -> Callable[[Callable[..., Any]], OnDemand]:
    """Makes a feature of a function: it gets one NumPy array of ``(rows,)`` per input (``(rows, n)`` for vectors,
    ``bytes`` objects for strings) and returns one of the same number of rows.
    """

    def make(function: Callable[..., Any]) -> OnDemand:
        return OnDemand(function, [feature_of(one) for one in inputs], output)

    return make


class FeatureService:
    """The ordered inputs of one model.

    A list fills the model's only input tensor, column by column (or, in a model of many inputs, each input by its
    feature's name); a mapping names the tensors: ``{"x": [...], "carrier": [...]}``.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[Named] | Mapping[str, Sequence[Named]],
        *,
        owner: str = "",
        description: str = "",
    ) -> None:
        self.name = checked_name("feature service", name)
        tensors = inputs if isinstance(inputs, Mapping) else {"": inputs}
        for listed in tensors.values():
            checked_kind(f"feature service '{name}', inputs", listed, Sequence)  # type: ignore[type-abstract]  # isinstance takes it
        self.tensors = {
            tensor: [feature_of(one) for one in listed] for tensor, listed in tensors.items()
        }
        if not tensors or not all(self.tensors.values()):
            raise DefinitionError(f"feature service '{name}' has a tensor without features")
        self.owner, self.description = owner, description


def feature_of(one: Named) -> Feature:
    """What a service was given, in one form."""
    if isinstance(one, Feature):
        return one
    if isinstance(one, Input):
        return Feature(FeatureRef("input", one.name), one)
    if isinstance(one, OnDemand):
        return Feature(FeatureRef("on_demand", one.name), one)
    if isinstance(one, FeatureView | ViewByOtherKeys):
        view = one if isinstance(one, FeatureView) else one.view
        raise DefinitionError(
            f"view '{view.name}' is no single feature: write *view.all(), or view[\"column\"]"
        )
    raise DefinitionError(
        f'{shown(one)} is no feature; write view["column"], an Input, entity["key"] or an on-demand feature'
    )
