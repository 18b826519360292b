"""The compiled definitions: one small JSON document that loaders, gateways and checkers read.

Decides its shape and nothing else; ``compiling.py`` makes it, ``evolution.py`` says what may follow it. It must stay
readable: fields are added with defaults, never renamed.
"""

from __future__ import annotations

import hashlib
from typing import Literal, TypeVar

import msgspec

from featurecache.columns import ColumnType, Default, parse_type
from featurecache.errors import DefinitionError
from featurecache.rows.schema import RowSchema

FORMAT = 1
MAX_MANIFEST_BYTES = 16 * 1024 * 1024

SpecT = TypeVar("SpecT", "ColumnSpec", "EntitySpec", "OnDemandSpec", "ServiceSpec", "ViewSpec")
Policy = Literal["default", "fail"]
StalePolicy = Literal["default", "use", "fail"]


class ColumnSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One typed column."""

    name: str
    type: str
    default: Default = None
    """None: NaN for floats; for every other type a missing value fails the request."""
    description: str = ""

    @property
    def parsed(self) -> ColumnType:
        """The type."""
        return parse_type(self.type)


class SourceSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a view's rows come from: Parquet files below the data folder."""

    path: str
    """A file or a pattern, relative to the data folder."""
    event_time: str
    """The column with the moment from which a row was known."""


class EntitySpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What rows are about."""

    name: str
    keys: dict[str, str]
    """Join keys and their types, in the order in which they make up the id."""
    description: str = ""


class ViewSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """Columns about one entity that change together. Times in seconds; None: without end."""

    name: str
    entity: str
    columns: list[ColumnSpec]
    source: SourceSpec | None = None
    """None: rows come by push alone."""
    max_age_s: float | None = None
    retention_s: float | None = None
    cache_ttl_s: float = 0.0
    stale_if_error_s: float = 0.0
    on_missing: Policy = "default"
    on_stale: StalePolicy = "default"
    on_null: Policy = "default"
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}
    pii: bool = False
    older: list[list[tuple[str, str]]] = []
    """Columns (name, type) of schemas whose rows may still be in the store."""

    @property
    def schema(self) -> RowSchema:
        """Of the rows that are written now."""
        return RowSchema([(one.name, one.parsed) for one in self.columns])

    @property
    def older_schemas(self) -> list[RowSchema]:
        """Of rows that were written before."""
        return [RowSchema([(name, parse_type(text)) for name, text in one]) for one in self.older]

    def column(self, name: str) -> ColumnSpec:
        """By name; the compiler has made sure that it is there."""
        return next(one for one in self.columns if one.name == name)


class FeatureRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """One value of a model's input, named."""

    kind: Literal["view", "input", "key", "on_demand"]
    name: str
    """Of the view, the request-time value, the join key or the on-demand feature."""
    column: str = ""
    """Of a view."""
    keys: dict[str, str] = {}
    """Of a view that is asked by other names: its own join key → the service's."""

    def __str__(self) -> str:
        if self.kind != "view":
            return self.name
        renamed = ",".join(f"{own}={asked}" for own, asked in self.keys.items())
        return f"{self.name}({renamed}).{self.column}" if renamed else f"{self.name}.{self.column}"

    @property
    def use(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The view and how it is asked: references that share it share one lookup."""
        return self.name, tuple(sorted(self.keys.items()))


class OnDemandSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value computed from others when a request comes."""

    name: str
    type: str
    inputs: list[FeatureRef]
    default: Default = None
    description: str = ""

    @property
    def parsed(self) -> ColumnType:
        """The type of what it gives."""
        return parse_type(self.type)


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input tensor of the model: its columns in order."""

    name: str
    """"": the only input of the model, or each feature an input of its own name."""
    features: list[FeatureRef]


class ServiceSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """The ordered inputs of one model."""

    name: str
    tensors: list[TensorSpec]
    owner: str = ""
    description: str = ""

    @property
    def refs(self) -> list[FeatureRef]:
        """Every value, in order."""
        return [ref for tensor in self.tensors for ref in tensor.features]


class Gone(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was defined once and is not now, as it was last, newest first: rows and models of it may still be there."""

    entities: list[EntitySpec] = []
    views: list[ViewSpec] = []
    inputs: list[ColumnSpec] = []
    on_demand: list[OnDemandSpec] = []
    services: list[ServiceSpec] = []


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that was defined, at one revision."""

    project: str
    entities: list[EntitySpec]
    views: list[ViewSpec]
    inputs: list[ColumnSpec] = []
    """Request-time values."""
    on_demand: list[OnDemandSpec] = []
    """In an order in which each needs only earlier ones."""
    services: list[ServiceSpec] = []
    code: str = ""
    """File, beside the manifest, with the functions of on-demand features; "" when there are none."""
    code_digest: str = ""
    """SHA-256 of that file."""
    gone: Gone | None = None
    """None: nothing has gone. Only ``evolution.py`` looks at it."""
    revision: int = 1
    format: int = msgspec.field(default_factory=lambda: FORMAT)
    """A factory, because plain defaults are left out of the file, and this one must always stand there."""

    def view(self, name: str) -> ViewSpec:
        return _named(self.views, name, "feature view")

    def entity(self, name: str) -> EntitySpec:
        return _named(self.entities, name, "entity")

    def service(self, name: str) -> ServiceSpec:
        return _named(self.services, name, "feature service")

    def input(self, name: str) -> ColumnSpec:
        return _named(self.inputs, name, "request-time input")

    def on_demand_feature(self, name: str) -> OnDemandSpec:
        return _named(self.on_demand, name, "on-demand feature")

    @property
    def digest(self) -> str:
        """SHA-256 over what is defined; the revision does not count."""
        same = msgspec.structs.replace(self, revision=0)
        found = hashlib.sha256(msgspec.json.encode(same, order="deterministic"))
        # That order sorts mappings; the keys of an entity have an order that means something.
        found.update(msgspec.json.encode([list(one.keys) for one in self.entities]))
        return found.hexdigest()


def _named(specs: list[SpecT], name: str, what: str) -> SpecT:
    for one in specs:
        if one.name == name:
            return one
    have = ", ".join(sorted(one.name for one in specs)) or "none"
    raise DefinitionError(f"no {what} '{name}'; the manifest has {have}")


def encode_manifest(manifest: Manifest) -> bytes:
    """As it stands in the file: indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(text: bytes, source: str) -> Manifest:
    """``source`` names the file in the ``DefinitionError``."""
    if len(text) > MAX_MANIFEST_BYTES:
        raise DefinitionError(
            f"{source}: larger than {MAX_MANIFEST_BYTES} bytes; is it a manifest?"
        )
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DefinitionError(
            f"{source}: no manifest ({error}); write it with `headrace features apply`"
        ) from None
    if manifest.format != FORMAT:
        raise DefinitionError(
            f"{source}: format {manifest.format}; this version reads format {FORMAT}"
        )
    return manifest
