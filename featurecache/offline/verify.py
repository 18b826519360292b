"""Whether the store says what the files say: a sample of entities, asked online and worked out anew offline.

Decides which entities are asked, what the answer must have been by the view's words, and what counts as a difference.
How the question travels (a gateway, a store) is the caller's; nothing that wrote the rows takes part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from featurecache.columns import ColumnType
from featurecache.errors import DefinitionError, FeatureError
from featurecache.manifests.manifest import ColumnSpec, Manifest, ViewSpec
from featurecache.offline.verify_offline import (
    FUTURE_US,
    Entity,
    OfflineRow,
    RawView,
    Skipped,
    key_kinds,
)
from featurecache.status import Status

MAX_SAMPLE = 100_000
"""Entities of one view, all held in memory."""
ASKED_AT_ONCE = 500
MAX_LISTED = 10_000
"""Differences in one report; the others are counted."""


class OnlineRow(msgspec.Struct):
    """What the online side says of one entity."""

    status: Status
    """PRESENT, MISSING, STALE …, of the row."""
    values: dict[str, object]
    """By column, as a model would be given them (defaults in their places): Python values, ``str`` or ``bytes``, lists
    for vectors, µs for timestamps; None where a request would fail."""
    event_us: int | None = None
    """Of the row, where the online side tells."""
    moment_us: int | None = None
    """When it was asked; None: at the moment of the whole comparison."""
    refused: str = ""
    """Why a request would fail for the row, where the online side tells no single values then."""


Ask: TypeAlias = Callable[[str, Sequence[Entity]], Sequence[OnlineRow]]
"""View and entities → one row each, in order."""


class Difference(msgspec.Struct, frozen=True):
    """One value that is not the same."""

    view: str
    entity: Entity
    column: str
    """"" for the row's status or event time."""
    online: str
    offline: str
    online_event_us: int | None
    offline_event_us: int | None


class ViewReport(msgspec.Struct):
    """What was found about one view."""

    view: str
    entities: int = 0
    values: int = 0
    differing: int = 0
    undecided: int = 0
    """Entities whose row was just about to grow too old, or is not yet known: either answer is right."""
    known: int = 0
    """Entities of the files that were decided."""
    agreement: float | None = None
    """The share of values that agree, 0.0 … 1.0; None where nothing that the files have was decided."""


class VerifyReport(msgspec.Struct):
    """The whole comparison."""

    manifest_digest: str
    moment_us: int
    seed: int
    views: list[ViewReport]
    differences: list[Difference]
    """At most ``MAX_LISTED``."""
    agreement: float | None = None
    """Of all views, as theirs."""


class Sampling(msgspec.Struct, frozen=True):
    """Who is asked."""

    entities: int = 1_000
    """Per view."""
    strangers: int = 10
    """Entities per view that the files do not have: the answer must be MISSING."""
    seed: int = 0
    slack_s: float = 60.0
    """How far the online side's clock, or its answer, may be from ``moment_us``; at most half of a view's own times."""


def verify(
    manifest: Manifest,
    data: Path,
    ask: Ask,
    *,
    moment_us: int,
    views: Sequence[str] | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008  # frozen
    skipped: Mapping[str, Skipped] | None = None,
) -> VerifyReport:
    """Compares every value of a sample of each view's entities. ``moment_us``: now, by which rows have their age.

    ``views``: None for all that have files; ``skipped``: view → rows that are as if they were not there.
    Floats are compared in the declared type, bit for bit but for NaN, which
    equals NaN. Raises ``FeatureError`` where files cannot be read or ``ask`` answers for another number of entities.
    """
    if not 0 < sampling.entities <= MAX_SAMPLE:
        raise FeatureError(f"a sample of {sampling.entities}: 1 to {MAX_SAMPLE} entities")
    names = views or [one.name for one in manifest.views if one.source is not None]
    if not names:
        raise DefinitionError("no feature view has files to compare with")
    report = VerifyReport(manifest.digest, moment_us, sampling.seed, [], [])
    for name in names:
        view = manifest.view(name)
        raw = RawView(manifest, view, data, (skipped or {}).get(name))
        entities = raw.sample(sampling.entities, sampling.seed)
        entities += _strangers(key_kinds(manifest, view), sampling)
        known = raw.latest(set(entities), moment_us, FUTURE_US)
        _compare_view(report, view, entities, known, ask, sampling.slack_s)
    totals = [(one.values, one.differing, one.known) for one in report.views]
    report.agreement = _agreement(*map(sum, zip(*totals, strict=True)))
    return report


def _agreement(values: int, differing: int, known: int) -> float | None:
    return 1.0 - differing / values if known or differing else None


def _strangers(kinds: Sequence[ColumnType], sampling: Sampling) -> list[Entity]:
    """Ids that are most unlikely to be anybody's; whoever exists after all is compared like everybody."""
    return [
        tuple(
            f"nobody {sampling.seed}:{number}%|" if kind.is_string else -2_000_000_000 - number
            for kind in kinds
        )
        for number in range(sampling.strangers)
    ]


def _compare_view(
    report: VerifyReport,
    view: ViewSpec,
    entities: Sequence[Entity],
    known: dict[Entity, OfflineRow],
    ask: Ask,
    slack_s: float,
) -> None:
    counts = ViewReport(view.name)
    report.views.append(counts)
    for start in range(0, len(entities), ASKED_AT_ONCE):
        asked = entities[start : start + ASKED_AT_ONCE]
        answers = ask(view.name, asked)
        if len(answers) != len(asked):
            raise FeatureError(
                f"view '{view.name}': {len(answers)} answers for {len(asked)} entities"
            )
        for entity, online in zip(asked, answers, strict=True):
            counts.entities += 1
            offline = known.get(entity)
            moment_us = report.moment_us if online.moment_us is None else online.moment_us
            if _is_on_edge(view, offline, moment_us, report.moment_us, slack_s):
                counts.undecided += 1
                continue
            counts.known += offline is not None
            _compare_row(report, counts, view, entity, online, offline, moment_us)
    counts.agreement = _agreement(counts.values, counts.differing, counts.known)


def _is_on_edge(
    view: ViewSpec, row: OfflineRow | None, moment_us: int, began_us: int, slack_s: float
) -> bool:
    if row is None:
        return False
    if row.event_us > began_us:
        return True  # the store has it, unless it was too far in the future when it was loaded
    age_s = (moment_us - row.event_us) / 1e6
    limits = [one for one in (view.max_age_s, view.retention_s) if one is not None]
    return any(abs(age_s - limit) <= min(slack_s, limit / 2) for limit in limits)


def _compare_row(
    report: VerifyReport,
    counts: ViewReport,
    view: ViewSpec,
    entity: Entity,
    online: OnlineRow,
    offline: OfflineRow | None,
    moment_us: int,
) -> None:
    status = expected_status(view, offline, moment_us)
    offline_us = None if offline is None or status is Status.MISSING else offline.event_us
    differing: list[tuple[str, str, str]] = []
    values = {one.name: expected_value(view, one, status, offline) for one in view.columns}
    if online.refused:
        if None not in values.values():
            differing.append(("", f"refused: {online.refused}", status.name))
    elif online.status != status:
        differing.append(("", Status(online.status).name, status.name))
    elif online.event_us is not None and offline_us is not None and online.event_us != offline_us:
        differing.append(("", _event_time(online.event_us), _event_time(offline_us)))
    for column in () if online.refused else view.columns:
        wanted = values[column.name]
        if column.name not in online.values:
            differing.append((column.name, "(not told)", shown(column.parsed, wanted)))
        elif not equal(column.parsed, online.values[column.name], wanted):
            told = shown(column.parsed, online.values[column.name])
            differing.append((column.name, told, shown(column.parsed, wanted)))
    counts.values += 1 + len(view.columns)
    counts.differing += len(differing)
    room = MAX_LISTED - len(report.differences)
    report.differences += [
        Difference(view.name, entity, column, ours, theirs, online.event_us, offline_us)
        for column, ours, theirs in differing[: max(0, room)]
    ]


def expected_status(view: ViewSpec, row: OfflineRow | None, moment_us: int) -> Status:
    """Of the row, by the definitions; past its retention the store has forgotten it."""
    if row is None:
        return Status.MISSING
    age_s = (moment_us - row.event_us) / 1e6
    if view.retention_s is not None and age_s > view.retention_s:
        return Status.MISSING
    if view.max_age_s is not None and age_s > view.max_age_s:
        return Status.STALE
    return Status.PRESENT


def expected_value(
    view: ViewSpec, column: ColumnSpec, status: Status, row: OfflineRow | None
) -> object:
    """What a model is to be given; None where a request is to fail."""
    is_used = status is Status.PRESENT or (status is Status.STALE and view.on_stale == "use")
    value: object = None
    policy: str = view.on_stale if status is Status.STALE else view.on_missing
    if is_used:
        assert row is not None  # only MISSING has none
        value, policy = row.values[column.name], view.on_null
    if value is not None:
        return value
    if policy == "fail":
        return None
    if column.default is None:
        gap = math.nan if column.parsed.is_float else None
        return [gap] * column.parsed.length if column.parsed.length and gap is not None else gap
    type_ = column.parsed
    if type_.length and not isinstance(column.default, list):
        return [column.default] * type_.length
    return column.default


def shown(type_: ColumnType, value: object) -> str:
    """As people read it: numbers of single precision with no more digits than tell them from others."""
    if isinstance(value, list):
        return f"[{', '.join(shown(type_, one) for one in value)}]"
    if type_.kind == "float32" and isinstance(value, float):
        with np.errstate(over="ignore"):
            return str(np.float32(value))
    return repr(value)


def _event_time(us: int) -> str:
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    except OverflowError:
        return f"event time {us} µs"
    return f"event time {moment.isoformat(timespec='microseconds').replace('+00:00', 'Z')}"


def equal(type_: ColumnType, online: object, offline: object) -> bool:
    """Whether two values are the same value of a type; floats bit for bit, and NaN equals NaN."""
    if online is None or offline is None:
        return online is offline
    if type_.is_string:
        return _text(online) == _text(offline)
    try:
        ours, theirs = np.asarray(online), np.asarray(offline)
        if ours.shape != theirs.shape or ours.shape != type_.shape(1)[1:]:
            return False
        if type_.is_float:
            # Rounded to the declared type first: JSON and Python have one float only.
            ours, theirs = ours.astype(type_.dtype), theirs.astype(type_.dtype)
            bits = np.dtype(f"u{type_.width}")
            both_nan = np.isnan(ours) & np.isnan(theirs)
            return bool(np.all(both_nan | (ours.view(bits) == theirs.view(bits))))
        return ours.dtype.kind in "iub" and bool(np.all(ours == theirs))
    except (TypeError, ValueError, OverflowError):
        return False


def _text(value: object) -> object:
    return value.encode() if isinstance(value, str) else value
