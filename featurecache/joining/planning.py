"""A feature service and a model, fitted together once: which views, which client inputs, which tensors.

Decides what a caller of the model sends, and refuses what does not fit, in words for whoever wrote ``model.toml``
or the definitions. It must never see a request.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from featurecache.columns import ColumnType
from featurecache.errors import DefinitionError
from featurecache.joining.assembly import ModelInput, PlacedFeature, TensorPlan
from featurecache.joining.view_use import ViewUse
from featurecache.manifests.manifest import FeatureRef, Manifest, OnDemandSpec, ServiceSpec

_HEADER = re.compile(r"(?!.*-bin$)[A-Za-z0-9_-]+", re.IGNORECASE).fullmatch


class KeySource(msgspec.Struct, frozen=True):
    """Where a request carries a join key."""

    kind: str
    """"input", "parameter" or "header"."""
    name: str


def view_uses(
    manifest: Manifest, refs: Sequence[FeatureRef]
) -> tuple[list[ViewUse], dict[object, int]]:
    """The views behind the references, each once per way of asking, and their numbers."""
    columns: dict[Any, dict[str, None]] = {}
    for ref in refs:
        if ref.kind == "view":
            columns.setdefault(ref.use, {})[ref.column] = None
    uses = [
        ViewUse(manifest, manifest.view(name), dict(renamed), list(wanted))
        for (name, renamed), wanted in columns.items()
    ]
    return uses, {use: number for number, use in enumerate(columns)}


def needed_functions(manifest: Manifest, refs: Sequence[FeatureRef]) -> list[OnDemandSpec]:
    """The on-demand features behind the references, in an order in which each can be computed."""
    names = {ref.name for ref in refs if ref.kind == "on_demand"}
    return [spec for spec in manifest.on_demand if spec.name in names]


def key_origins(types: Mapping[str, ColumnType], told: Mapping[str, str]) -> dict[str, KeySource]:
    """Where each join key of the service comes from."""
    for key in told:
        if key not in types:
            raise DefinitionError(
                f"`keys` names '{key}', which is no join key of the service: {', '.join(types) or 'none'}"
            )
    sources: dict[str, KeySource] = {}
    for key in types:
        kind, colon, name = told.get(key, f"input:{key}").partition(":")
        if not colon or not name or kind not in ("input", "parameter", "header"):
            raise DefinitionError(
                f"key '{key}' comes from {told[key]!r}; write input:NAME, parameter:NAME or header:NAME"
            )
        if kind == "header" and not _HEADER(name):
            raise DefinitionError(
                f"key '{key}': header {name!r} cannot be asked for; take letters, digits, - and _, not ending in -bin"
            )
        sources[key] = KeySource(kind, name)
    return sources


def key_places(sources: Mapping[str, KeySource]) -> list[tuple[str, int, str]]:
    """Each key with its place among the inputs, the parameters or the headers."""
    counted = {"input": 0, "parameter": 0, "header": 0}
    places = []
    for key, source in sources.items():
        places.append((key, counted[source.kind], source.kind))
        counted[source.kind] += 1
    return places


def client_inputs(
    model_inputs: Sequence[ModelInput],
    keys: Sequence[tuple[str, ColumnType]],
    values: Sequence[tuple[str, ColumnType]],
) -> tuple[ModelInput, ...]:
    """What a caller sends: join keys, then request-time values, ``(rows, n)`` each."""
    first = model_inputs[0].shape[0] if model_inputs and model_inputs[0].shape else -1
    listed = [
        ModelInput(name, type_.datatype, (first, type_.elements))
        for name, type_ in (*keys, *values)
    ]
    names = [one.name for one in listed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DefinitionError(f"the request would carry '{twice[0]}' twice")
    if not listed:
        raise DefinitionError("the request would carry no input at all; V2 asks for at least one")
    return tuple(listed)


def tensor_plans(
    manifest: Manifest,
    service: ServiceSpec,
    model_inputs: Sequence[ModelInput],
    use_numbers: Mapping[object, int],
    uses: Sequence[ViewUse],
    keys: Mapping[str, ColumnType],
) -> list[TensorPlan]:
    """How each input of the model is put together."""
    by_name = {tensor.name: tensor.features for tensor in service.tensors}
    if list(by_name) == [""]:
        (features,) = by_name.values()
        if len(model_inputs) == 1:
            by_name = {model_inputs[0].name: features}
        else:
            by_name = _one_each(service.name, features, {one.name for one in model_inputs})
    missing = [one.name for one in model_inputs if one.name not in by_name]
    unknown = [name for name in by_name if name not in {one.name for one in model_inputs}]
    if missing or unknown:
        raise DefinitionError(
            f"feature service '{service.name}' does not fit the model: "
            f"nothing fills {', '.join(missing) or '-'}; the model has no input {', '.join(unknown) or '-'}"
        )
    schemas = [use.spec.schema for use in uses]
    plans = []
    for target in model_inputs:
        start, placed = 0, []
        for ref in by_name[target.name]:
            type_ = _type_of(manifest, ref, keys)
            stop = start + type_.elements
            placed.append(
                PlacedFeature(
                    ref, type_, use_numbers[ref.use] if ref.kind == "view" else -1, start, stop
                )
            )
            start = stop
        plans.append(TensorPlan(target, placed, schemas))
    return plans


def _one_each(
    service: str, features: Sequence[FeatureRef], names: Collection[str]
) -> dict[str, list[FeatureRef]]:
    """Each feature to the model's input ``view.column``, or else to the one named like the column alone."""
    placed: dict[str, list[FeatureRef]] = {}
    for ref in features:
        short = ref.column or ref.name
        name = short if str(ref) not in names and short in names else str(ref)
        if name in placed:
            raise DefinitionError(
                f"feature service '{service}': the model's input '{name}' could be {placed[name][0]} or {ref}; "
                "name the tensors in the service"
            )
        placed[name] = [ref]
    return placed


def _type_of(manifest: Manifest, ref: FeatureRef, keys: Mapping[str, ColumnType]) -> ColumnType:
    if ref.kind == "view":
        return manifest.view(ref.name).column(ref.column).parsed
    if ref.kind == "input":
        return manifest.input(ref.name).parsed
    if ref.kind == "key":
        return keys[ref.name]
    return manifest.on_demand_feature(ref.name).parsed
