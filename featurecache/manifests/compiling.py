"""Definitions, as objects of one Python file, turned into a manifest.

Decides what clashes: names that stand for two things, references to nothing, join keys of two types. It must never
read data or a store, and runs no function of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from featurecache.columns import checked_default
from featurecache.definitions import (
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Input,
    OnDemand,
    Project,
)
from featurecache.errors import DefinitionError
from featurecache.manifests.manifest import (
    EntitySpec,
    Manifest,
    OnDemandSpec,
    ServiceSpec,
    TensorSpec,
    ViewSpec,
)
from featurecache.manifests.needs import key_types

DefinedT = TypeVar("DefinedT")
MAX_DEPTH = 32
"""Of on-demand features that need each other."""


def compile_manifest(definitions: Iterable[object]) -> Manifest:
    """The manifest of everything among ``definitions`` and of all that they refer to.

    Objects of other kinds do not count. Raises ``DefinitionError`` with the first clash. Revision, older schemas and
    the file of code are not known here.
    """
    found: dict[int, object] = {}
    for one in definitions:
        _gather(one, found, 0)
    projects = list(_of(Project, found))
    if len(projects) != 1:
        raise DefinitionError(
            f'{len(projects)} projects are defined; write one: project = Project("name")'
        )
    views = _unique("feature view", _of(FeatureView, found))
    entities = _unique("entity", _of(Entity, found))
    inputs = _unique("input", _of(Input, found))
    computed = _unique("on-demand feature", _of(OnDemand, found))
    services = _unique("feature service", _of(FeatureService, found))
    manifest = Manifest(
        project=projects[0].name,
        entities=[
            EntitySpec(
                one.name, {key: str(type_) for key, type_ in one.keys.items()}, one.description
            )
            for one in entities
        ],
        views=[_view(one) for one in views],
        inputs=[one.spec for one in inputs],
        on_demand=_in_order_of_need([_on_demand(one) for one in computed]),
        services=[_service(one) for one in services],
    )
    _check_values(manifest)
    _check_names(manifest)
    for service in manifest.services:
        _check_service(manifest, service)
    return manifest


def _gather(one: object, found: dict[int, object], depth: int) -> None:
    """Everything that can be reached, in the order in which it was met first."""
    if depth > MAX_DEPTH:
        raise DefinitionError(f"on-demand features need each other more than {MAX_DEPTH} deep")
    if isinstance(one, Feature):
        one = one.owner
    if id(one) in found:
        return
    found[id(one)] = one
    if isinstance(one, FeatureView):
        _gather(one.entity, found, depth + 1)
    elif isinstance(one, OnDemand):
        for feature in one.inputs:
            _gather(feature, found, depth + 1)
    elif isinstance(one, FeatureService):
        for features in one.tensors.values():
            for feature in features:
                _gather(feature, found, depth + 1)


def _of(kind: type[DefinedT], found: dict[int, object]) -> Iterator[DefinedT]:
    return (one for one in found.values() if isinstance(one, kind))


def _unique(what: str, found: Iterable[DefinedT]) -> list[DefinedT]:
    named: dict[str, DefinedT] = {}
    for one in found:
        name = one.name  # type: ignore[attr-defined]  # all definitions have one
        if name in named and not _same(named[name], one):
            raise DefinitionError(f"{what} '{name}' is defined twice, in different ways")
        named.setdefault(name, one)
    return list(named.values())


def _same(one: Any, other: Any) -> bool:
    """An ``Input`` written out at two places is one input."""
    return isinstance(one, Input) and (one.name, one.type) == (other.name, other.type)


def _view(view: FeatureView) -> ViewSpec:
    return ViewSpec(
        name=view.name,
        entity=view.entity.name,
        columns=[one.spec for one in view.columns],
        source=view.source,
        max_age_s=view.max_age_s,
        retention_s=view.retention_s,
        cache_ttl_s=view.cache_ttl_s,
        stale_if_error_s=view.stale_if_error_s,
        on_missing=view.on_missing,
        on_stale=view.on_stale,
        on_null=view.on_null,
        owner=view.owner,
        description=view.description,
        tags=view.tags,
        pii=view.pii,
    )


def _on_demand(one: OnDemand) -> OnDemandSpec:
    output = one.output
    return OnDemandSpec(
        one.name,
        str(output.type),
        [feature.ref for feature in one.inputs],
        output.default,
        output.description or " ".join((one.__doc__ or "").split())[:500],
    )


def _service(service: FeatureService) -> ServiceSpec:
    tensors = [
        TensorSpec(name, [feature.ref for feature in features])
        for name, features in service.tensors.items()
    ]
    return ServiceSpec(service.name, tensors, service.owner, service.description)


def _in_order_of_need(computed: list[OnDemandSpec]) -> list[OnDemandSpec]:
    ordered: dict[str, OnDemandSpec] = {}
    waiting = list(computed)
    while waiting:
        ready = [
            one
            for one in waiting
            if all(ref.kind != "on_demand" or ref.name in ordered for ref in one.inputs)
        ]
        if not ready:
            names = ", ".join(one.name for one in waiting)
            raise DefinitionError(f"on-demand features that need each other in a circle: {names}")
        ordered.update((one.name, one) for one in ready)
        waiting = [one for one in waiting if one.name not in ordered]
    return list(ordered.values())


def _check_values(manifest: Manifest) -> None:
    """What is written must be readable: no number where a text belongs (an owner, a tag)."""
    try:
        msgspec.convert(msgspec.to_builtins(manifest), Manifest)
    except (msgspec.MsgspecError, TypeError) as error:
        raise DefinitionError(f"a definition has a value of the wrong type: {error}") from None


def _check_names(manifest: Manifest) -> None:
    """One column of a training set cannot be two things."""
    owners: dict[str, str] = {}
    for what, names in (
        ("input", [one.name for one in manifest.inputs]),
        ("on-demand feature", [one.name for one in manifest.on_demand]),
        ("key", sorted({key for entity in manifest.entities for key in entity.keys})),
    ):
        for name in names:
            if name in owners:
                raise DefinitionError(
                    f"'{name}' is the name of {_one(what)} and of {_one(owners[name])}"
                )
            owners[name] = what
    for spec in manifest.on_demand:
        checked_default(spec.parsed, spec.default)


def _one(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _check_service(manifest: Manifest, service: ServiceSpec) -> None:
    for tensor in service.tensors:
        texts = [str(ref) for ref in tensor.features]
        twice = sorted({text for text in texts if texts.count(text) > 1})
        if twice:
            raise DefinitionError(f"feature service '{service.name}' names {twice[0]} twice")
    types = key_types(manifest, service)
    for key, type_ in types.items():
        if any(one.name == key for one in manifest.inputs):
            raise DefinitionError(
                f"feature service '{service.name}': '{key}' is a join key ({type_}) and an input"
            )
        if any(one.name == key for one in manifest.on_demand):
            raise DefinitionError(
                f"feature service '{service.name}': '{key}' is a join key ({type_}) and an on-demand feature"
            )
