"""What ``headrace features get`` asks the store for, and what it computes of the answers.

Decides which rows a view or a service needs of the keys that were given, and which of its on-demand features can be
computed without a request. It must never print, and never show another value than a gateway would take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featurecache.columns import Values, parse_type
from featurecache.errors import DefinitionError, FeatureError, RowError, UnfillableError
from featurecache.manifests.manifest import FeatureRef, Manifest, ServiceSpec, ViewSpec
from featurecache.manifests.needs import key_types, needed_refs

if TYPE_CHECKING:
    from featurecache.joining.on_demand import Functions
    from featurecache.writing.looking import SeenComputed

NEEDS_REQUEST = "needs the request's values"


class Asked(NamedTuple):
    """One row that is wanted."""

    view: ViewSpec
    key: bytes
    """The row's name in the store."""
    columns: list[str]
    """To be shown."""
    entity: str
    """For people: the keys as they were given, such as ``origin=JFK``."""
    renamed: Mapping[str, str]
    """The view's own join keys → the service's."""


def asked_of(manifest: Manifest, name: str, given: Mapping[str, str]) -> list[Asked]:
    """The rows of view or service ``name``; a service may ask one view several times by other keys.

    Raises ``DefinitionError`` for an unknown name, ``RowError`` for keys that are missing, unknown or impossible.
    """
    from featurecache.rows.json_rows import JsonRows

    if any(one.name == name for one in manifest.views):
        view = manifest.view(name)
        key = JsonRows(manifest, view).key(given)
        own = list(manifest.entity(view.entity).keys)
        return [Asked(view, key, [one.name for one in view.columns], _pairs(own, given), {})]
    if all(one.name != name for one in manifest.services):
        views = ", ".join(one.name for one in manifest.views)
        services = ", ".join(one.name for one in manifest.services)
        raise DefinitionError(
            f"'{name}' is neither a feature view ({views}) nor a service ({services or 'none'})"
        )
    service = manifest.service(name)
    uses: dict[Any, list[FeatureRef]] = {}
    for ref in needed_refs(manifest, service):
        if ref.kind == "view":
            uses.setdefault(ref.use, []).append(ref)
    asked = []
    for refs in uses.values():
        ref = refs[0]
        view = manifest.view(ref.name)
        names = {own: ref.keys.get(own, own) for own in manifest.entity(view.entity).keys}
        missing = [one for one in names.values() if one not in given]
        if missing:
            raise RowError(f"service '{name}' needs the join key {missing[0]}=…")
        key = JsonRows(manifest, view).key({own: given[one] for own, one in names.items()})
        columns = [one.column for one in refs]
        asked.append(Asked(view, key, columns, _pairs(names.values(), given), ref.keys))
    wanted = key_types(manifest, service)
    if extra := sorted(given.keys() - wanted.keys()):
        raise RowError(
            f"service '{name}' has no join key '{extra[0]}': {', '.join(sorted(wanted))}"
        )
    return asked


def _pairs(names: Any, given: Mapping[str, str]) -> str:
    return " ".join(f"{name}={given[name]}" for name in names)


def computed_of(
    manifest: Manifest,
    folder: Path,
    name: str,
    asked: Sequence[Asked],
    rows: Sequence[bytes | None],
    given: Mapping[str, str],
    *,
    now_us: int,
) -> list[SeenComputed]:
    """The on-demand features among the inputs of service ``name``, computed of the rows that were found.

    ``folder``: where the manifest and its functions lie. Empty for a view, and for services without such features.
    """
    from featurecache.writing.looking import SeenComputed, plain

    service = next((one for one in manifest.services if one.name == name), None)
    if service is None or all(ref.kind != "on_demand" for ref in service.refs):
        return []
    values = _Computing(manifest, folder, service, asked, rows, given, now_us)
    told = []
    for ref in service.refs:
        if ref.kind != "on_demand":
            continue
        type_ = manifest.on_demand_feature(ref.name).parsed
        seen = SeenComputed(ref.name, str(type_))
        try:
            seen.value = plain(type_, values.of(ref))
        except (FeatureError, RowError) as error:
            seen.status, seen.problem = "-", str(error)
        told.append(seen)
    return told


class _Computing:
    """Values of one row each, computed when first asked for."""

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        service: ServiceSpec,
        asked: Sequence[Asked],
        rows: Sequence[bytes | None],
        given: Mapping[str, str],
        now_us: int,
    ) -> None:
        self._manifest, self._folder, self._given, self._now_us = manifest, folder, given, now_us
        self._key_types = key_types(manifest, service)
        self._rows = {
            (one.view.name, tuple(sorted(one.renamed.items()))): (one, row)
            for one, row in zip(asked, rows, strict=True)
        }
        self._functions: Functions | None = None
        self._done: dict[str, Values] = {}

    def of(self, ref: FeatureRef) -> Values:
        """Raises ``FeatureError`` or ``RowError`` where there is no value, with the reason."""
        if ref.kind == "input":
            raise FeatureError(NEEDS_REQUEST)
        if ref.kind == "key":
            return self._key(ref.name)
        if ref.kind == "view":
            return self._column(ref)
        if ref.name not in self._done:
            spec = self._manifest.on_demand_feature(ref.name)
            if any(one.kind == "input" for one in spec.inputs):
                raise FeatureError(NEEDS_REQUEST)
            columns = [self.of(one) for one in spec.inputs]
            self._done[ref.name] = self._loaded().compute(ref.name, columns)
        return self._done[ref.name]

    def _loaded(self) -> Functions:
        from featurecache.joining.on_demand import load_functions

        if self._functions is None:
            self._functions = load_functions(self._manifest, self._folder)
        return self._functions

    def _key(self, name: str) -> Values:
        if name not in self._given:
            raise RowError(f"needs the join key {name}=…")
        type_ = parse_type(self._key_types[name])
        text = self._given[name]
        if type_.is_string:
            column = np.empty(1, np.object_)
            column[0] = text.encode()
            return column
        try:
            return np.array([int(text)], type_.dtype)
        except (ValueError, OverflowError):
            raise RowError(f"the key {text!r} is no {type_}") from None

    def _column(self, ref: FeatureRef) -> Values:
        from featurecache.joining.view_use import ViewUse

        one, row = self._rows[ref.use]
        use = ViewUse(self._manifest, one.view, one.renamed, one.columns)
        try:
            return use.read([row], (), self._now_us).table.column(ref.column)
        except UnfillableError as error:
            raise FeatureError(str(error)) from None
