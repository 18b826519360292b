"""What may follow a manifest that was applied before.

Decides which changes of definitions are compatible with rows that lie in the store and with models that are served,
and carries old schemas along, so that rows written before stay readable. It must never touch either.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TypeVar

import msgspec

from featurecache.errors import DefinitionError
from featurecache.manifests.manifest import (
    ColumnSpec,
    EntitySpec,
    Gone,
    Manifest,
    OnDemandSpec,
    ServiceSpec,
    ViewSpec,
)

MAX_OLDER_SCHEMAS = 16
"""Per view; rows that are older still were loaded anew long ago, or have expired."""
MAX_GONE = 64
"""Of each kind; what went before them may come back as anything."""
MAX_GONE_BYTES = 1024 * 1024
"""Of each kind, as JSON: the manifest stays readable whatever went."""

_Spec = TypeVar("_Spec", ColumnSpec, EntitySpec, OnDemandSpec, ServiceSpec, ViewSpec)


def follow(
    old: Manifest | None, new: Manifest, *, force: bool = False
) -> tuple[Manifest, list[str]]:
    """The new manifest as the old one's successor, and what changed, in sentences.

    Raises ``DefinitionError`` listing every incompatible change; ``force`` takes them all the same (rows and models
    made under the old definitions may then be unreadable or wrong).
    """
    if old is None:
        return new, ["first revision"]
    problems = [] if force else incompatibilities(old, new)
    if problems:
        listed = "\n".join(f"  - {one}" for one in problems)
        raise DefinitionError(
            f"not compatible with revision {old.revision}, which is applied:\n{listed}"
        )
    before = {view.name: view for view in _ever(old).views}
    views = [
        view if view.name not in before else _with_older(before[view.name], view)
        for view in new.views
    ]
    gone = _gone(old, new) if old.project == new.project else None
    merged = msgspec.structs.replace(new, views=views, gone=gone, revision=old.revision)
    if merged.digest == old.digest:
        return old, []
    return msgspec.structs.replace(merged, revision=old.revision + 1), changes(old, new)


def incompatibilities(old: Manifest, new: Manifest) -> list[str]:
    """Why ``new`` may not follow ``old`` and what had gone before it; empty when it may."""
    if old.project != new.project:
        problem = (
            f"the project was '{old.project}' and is '{new.project}': its rows would not be found; "
            "apply it to another folder"
        )
        return [problem]
    problems: list[str] = []
    old = _ever(old)
    entities = {one.name: one for one in new.entities}
    for entity in old.entities:
        now = entities.get(entity.name)
        if now is not None and list(now.keys.items()) != list(entity.keys.items()):
            problems.append(
                f"entity '{entity.name}' changed its keys: rows in the store would not be found; "
                "define an entity of another name"
            )
    views = {one.name: one for one in new.views}
    for view in old.views:
        if view.name in views:
            problems.extend(_view_problems(view, views[view.name]))
    problems += _meaning_problems(old, new)
    services = {one.name: one for one in new.services}
    for service in old.services:
        follower = services.get(service.name)
        if follower is not None and follower.tensors != service.tensors:
            problems.append(
                f"feature service '{service.name}' changed its inputs: models trained on them would be given "
                f"others; define '{service.name}_v2' (or the like) beside it"
            )
    return problems


def _ever(old: Manifest) -> Manifest:
    """With what has gone, as if it were still there: going and coming back is no way around the rules."""
    gone = old.gone
    if gone is None:
        return old
    return msgspec.structs.replace(
        old,
        entities=old.entities + gone.entities,
        views=old.views + gone.views,
        inputs=old.inputs + gone.inputs,
        on_demand=old.on_demand + gone.on_demand,
        services=old.services + gone.services,
    )


def _gone(old: Manifest, new: Manifest) -> Gone | None:
    """What ``new`` lacks of all that there ever was; None: nothing."""
    earlier = old.gone or Gone()
    gone = Gone(
        _lacking(old.entities, earlier.entities, new.entities),
        _lacking(old.views, earlier.views, new.views),
        _lacking(old.inputs, earlier.inputs, new.inputs),
        _lacking(old.on_demand, earlier.on_demand, new.on_demand),
        _lacking(old.services, earlier.services, new.services),
    )
    return None if gone == Gone() else gone


def _lacking(was: Sequence[_Spec], earlier: Sequence[_Spec], now: Sequence[_Spec]) -> list[_Spec]:
    names = {one.name for one in now}
    kept: list[_Spec] = []
    left_bytes = MAX_GONE_BYTES
    for one in chain(was, earlier):
        if one.name in names:
            continue
        left_bytes -= len(msgspec.json.encode(one))
        if left_bytes < 0 or len(kept) == MAX_GONE:
            break
        kept.append(one)
    return kept


def _meaning_problems(old: Manifest, new: Manifest) -> list[str]:
    """Values that keep their names and become other values, for models that were trained on them."""
    inputs = {one.name: one for one in new.inputs}
    problems = [
        f"input '{one.name}' was {one.type} and is {inputs[one.name].type}; give it another name"
        for one in old.inputs
        if one.name in inputs and inputs[one.name].type != one.type
    ]
    computed = {one.name: one for one in new.on_demand}
    for before in old.on_demand:
        now = computed.get(before.name)
        if now is not None and (now.type, now.inputs) != (before.type, before.inputs):
            problems.append(
                f"on-demand feature '{before.name}' changed its type or its inputs; give it another name"
            )
    return problems


def _view_problems(old: ViewSpec, new: ViewSpec) -> list[str]:
    if old.entity != new.entity:
        return [
            f"view '{old.name}' moved from entity '{old.entity}' to '{new.entity}'; define a view of another name"
        ]
    problems = []
    before = {one.name: one.type for one in old.columns}
    earlier: dict[str, str] = {}
    for schema in old.older:  # newest first
        for name, type_ in schema:
            earlier.setdefault(name, type_)
    for column in new.columns:
        was = before.get(column.name)
        if was is None and column.default is None and not column.parsed.is_float:
            problems.append(
                f"view '{old.name}' has a new column '{column.name}' without a default: "
                "rows that were written before have no value for it"
            )
        was = was or earlier.get(column.name)
        if was is not None and was != column.type:
            problems.append(
                f"column '{old.name}.{column.name}' was {was} and is {column.type}; give it another name"
            )
    return problems


def _with_older(old: ViewSpec, new: ViewSpec) -> ViewSpec:
    schema = [(one.name, one.type) for one in new.columns]
    earlier = [(one.name, one.type) for one in old.columns]
    older = [one for one in ([earlier] if earlier != schema else []) + old.older if one != schema]
    return msgspec.structs.replace(new, older=older[:MAX_OLDER_SCHEMAS])


def changes(old: Manifest, new: Manifest) -> list[str]:
    """What a reader of the change wants to know, in sentences."""
    told = []
    for what, before, after in (
        ("entity", old.entities, new.entities),
        ("view", old.views, new.views),
        ("input", old.inputs, new.inputs),
        ("on-demand feature", old.on_demand, new.on_demand),
        ("service", old.services, new.services),
    ):
        earlier = {one.name: one for one in before}
        later = {one.name: one for one in after}
        told += [f"new {what} '{name}'" for name in later if name not in earlier]
        told += [f"{what} '{name}' is gone" for name in earlier if name not in later]
        told += [
            f"{what} '{name}' changed"
            for name in later
            if name in earlier and _stripped(later[name]) != _stripped(earlier[name])
        ]
    if old.code_digest != new.code_digest:
        told.append("the functions of on-demand features changed")
    return told


def _stripped(spec: object) -> object:
    if isinstance(spec, EntitySpec):  # the order of keys counts, and dicts compare without it
        return spec, list(spec.keys)
    return msgspec.structs.replace(spec, older=[]) if isinstance(spec, ViewSpec) else spec
