"""What a feature service needs, through all that its features are made of: join keys and references.

Decides from a manifest alone. It must never see definitions or a request.
"""

from __future__ import annotations

from collections import deque

from featurecache.errors import DefinitionError
from featurecache.manifests.manifest import FeatureRef, Manifest, ServiceSpec


def key_types(manifest: Manifest, service: ServiceSpec) -> dict[str, str]:
    """The join keys that a caller of the service gives, with their types, in the order of first need.

    Raises ``DefinitionError`` when two views want the same key as two types, or a key belongs to nobody.
    """
    refs = needed_refs(manifest, service)
    of_views: dict[str, str] = {}
    order: dict[str, None] = {}
    for ref in refs:
        if ref.kind == "key":
            order[ref.name] = None
        elif ref.kind == "view":
            entity = manifest.entity(manifest.view(ref.name).entity)
            for own, type_ in entity.keys.items():
                key = ref.keys.get(own, own)
                order[key] = None
                if of_views.setdefault(key, type_) != type_:
                    raise DefinitionError(
                        f"feature service '{service.name}': join key '{key}' is {of_views[key]} and {type_}"
                    )
    return {key: of_views.get(key) or _key_type(manifest, service, key) for key in order}


def _key_type(manifest: Manifest, service: ServiceSpec, key: str) -> str:
    """Of a key that is a value of the model and that no view is asked by."""
    types = sorted({one.keys[key] for one in manifest.entities if key in one.keys})
    if len(types) != 1:
        raise DefinitionError(
            f"feature service '{service.name}': join key '{key}' is {' and '.join(types)} in different entities; "
            "give one of them another name"
            if types
            else f"feature service '{service.name}': no entity has a join key '{key}'"
        )
    return types[0]


def needed_refs(manifest: Manifest, service: ServiceSpec) -> list[FeatureRef]:
    """The service's own references and those that its on-demand features need, each once."""
    needed: dict[tuple[object, ...], FeatureRef] = {}
    waiting = deque(service.refs)
    while waiting:
        ref = waiting.popleft()
        identity = (ref.kind, ref.column, ref.use)
        if identity not in needed:
            needed[identity] = ref
            if ref.kind == "on_demand":
                waiting.extend(manifest.on_demand_feature(ref.name).inputs)
    return list(needed.values())
