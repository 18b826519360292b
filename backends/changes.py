"""What must be loaded and what must go, so that what is served becomes what should be served.

Decides with plain values, from looks at the repository and the state that was reached. It must
never touch a file or a model, and never let a version go whose successor is not ready.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import msgspec

from backends.manager import LoadedModel, RepositoryState
from backends.repository import Desired, DesiredModel, Problem, is_settled


class VersionKey(NamedTuple):
    """One state of one version: another fingerprint is another state."""

    name: str
    version: str
    fingerprint: str


class Changes(msgspec.Struct, frozen=True):
    """Each part by name, and the newest version of a name first."""

    load: tuple[VersionKey, ...] = ()
    """A loaded version of the same name and number serves on until this one takes its place."""
    unload: tuple[VersionKey, ...] = ()
    """To go after every ``load`` of their model went well. Where one failed, they must stay."""
    keep: tuple[VersionKey, ...] = ()
    """Loaded, and staying: right as they are, or better than nothing."""
    waiting: tuple[VersionKey, ...] = ()
    """Wanted, but perhaps still being copied: the next look may load them."""


def changes(
    desired: Desired,
    state: RepositoryState,
    *,
    before: Desired | None = None,
    only: Collection[str] | None = None,
) -> Changes:
    """What brings ``state`` to ``desired``, for all models or ``only`` for those of these names.

    With the look ``before`` this is a poll: nothing is loaded whose files differ between the two
    looks, nothing is tried again that failed with the same files, and nothing goes whose folder was
    there one look ago. Without it somebody asks, and everything that differs is tried.

    A model with a problem keeps what it has: bad settings, a missing file, a version that is not
    loaded yet.
    """
    loaded: dict[str, list[LoadedModel]] = {name: [] for name in desired.names}
    for one in state.loaded:
        loaded.setdefault(one.name, []).append(one)
    wanted = {model.name: model for model in desired.models}
    held_back = {problem.name for problem in desired.problems if _holds_back(problem)}
    held_back |= desired.names - wanted.keys()
    unripe: set[VersionKey] = set()
    failed: set[VersionKey] = set()
    if before is not None:
        unripe = _unripe(desired, before)
        failed = {VersionKey(one.name, one.version, one.fingerprint) for one in state.refused}
        held_back |= before.names - desired.names
    found = [
        _of_one(wanted.get(name), serving, name in held_back, unripe, failed)
        for name, serving in sorted(loaded.items())
        if only is None or name in only
    ]
    return Changes(
        load=tuple(key for one in found for key in one.load),
        unload=tuple(key for one in found for key in one.unload),
        keep=tuple(key for one in found for key in one.keep),
        waiting=tuple(key for one in found for key in one.waiting),
    )


def _of_one(
    model: DesiredModel | None,
    loaded: list[LoadedModel],
    is_held_back: bool,
    unripe: Collection[VersionKey],
    failed: Collection[VersionKey],
) -> Changes:
    """For one model, of which ``loaded`` is served now."""
    load: list[VersionKey] = []
    keep: list[VersionKey] = []
    waiting: list[VersionKey] = []
    leftover = {one.version: _key(one) for one in loaded}
    for key in _keys(model):
        serving = leftover.pop(key.version, None)
        if serving == key:
            keep.append(key)
            continue
        if key not in failed and key not in unripe:
            load.append(key)
            continue
        if key in unripe:
            waiting.append(key)
        if serving is not None:
            keep.append(serving)
        is_held_back = True
    rest = tuple(leftover.values())
    if is_held_back:
        keep = sorted((*keep, *rest), key=lambda key: -int(key.version))
        rest = ()
    return Changes(load=tuple(load), unload=rest, keep=tuple(keep), waiting=tuple(waiting))


def _unripe(desired: Desired, before: Desired) -> set[VersionKey]:
    """Wanted versions whose files may still be on their way."""
    earlier = {(m.name, v.version): v for m in before.models for v in m.versions}
    return {
        VersionKey(model.name, version.version, version.fingerprint)
        for model in desired.models
        for version in model.versions
        if not is_settled(earlier.get((model.name, version.version)), version)
    }


def _holds_back(problem: Problem) -> bool:
    """Is something missing that is wanted? A folder with a forbidden name is nobody's successor."""
    return not problem.version.startswith("0")


def _keys(model: DesiredModel | None) -> list[VersionKey]:
    if model is None:
        return []
    return [VersionKey(model.name, one.version, one.fingerprint) for one in model.versions]


def _key(one: LoadedModel) -> VersionKey:
    return VersionKey(one.name, one.version, one.fingerprint)
