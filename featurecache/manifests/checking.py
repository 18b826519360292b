"""Whether what somebody wrote into a definition is what it must be: names, durations, kinds of objects.

Decides the sentences that such mistakes get. It must never know what a definition means.
"""

from __future__ import annotations

import re
from typing import TypeAlias, TypeVar

from featurecache.columns import ColumnType
from featurecache.errors import DefinitionError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_DURATION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(ms|s|m|h|d|w)")
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
MAX_DURATION_S = 100 * 366 * 86_400.0

Duration: TypeAlias = str | int | float | None
"""``"90s"``, ``"5m"``, ``"3h"``, ``"7d"``, or a number of seconds."""

KindT = TypeVar("KindT")


def checked_name(what: str, name: object) -> str:
    """A name that can stand in keys, files and Python."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(
            f"{what} {name!r}: a name is letters, digits and _, at most 64, and begins with no digit"
        )
    return name


def seconds(what: str, duration: Duration) -> float | None:
    """A duration in seconds; None stays None."""
    if duration is None:
        return None
    if isinstance(duration, str):
        found = _DURATION.fullmatch(duration.strip())
        if found is None:
            raise DefinitionError(f"{what}: {duration!r} is no duration; write 90s, 5m, 3h or 7d")
        value: float = float(found[1]) * _SECONDS[found[2]]
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        value = duration
    else:
        raise DefinitionError(f"{what}: {duration!r} is no duration; write 90s, 5m, 3h or 7d")
    if not 0 <= value <= MAX_DURATION_S:
        raise DefinitionError(f"{what}: {duration!r} is not between 0 and a hundred years")
    return float(value)


def checked_type(type_: object, what: str) -> ColumnType:
    """A type of values, and no Python type or text."""
    if not isinstance(type_, ColumnType):
        raise DefinitionError(
            f"{what}: {shown(type_)} is no type; take Float32, String, Vector(Float32, 8) …"
        )
    return type_


def checked_kind(what: str, one: object, kind: type[KindT]) -> KindT:
    """An object of ``kind``; ``what`` says where it stands."""
    if not isinstance(one, kind):
        raise DefinitionError(f"{what}: {shown(one)} is no {kind.__name__}")
    return one


def shown(one: object) -> str:
    """As a mistake is told: what Python shows of it, but no address in memory."""
    text = repr(one)
    if " at 0x" not in text:
        return text
    name = getattr(one, "name", None) or getattr(one, "__name__", None)
    kind = type(one).__name__
    return f"{kind} '{name}'" if isinstance(name, str) else f"an object of {kind}"
