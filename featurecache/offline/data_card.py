"""What a training set was made of, beside it as JSON and as a page to read.

Decides its fields. The same definitions and files give the same card on any machine: no clock, no folder and no user
stands in it.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from featurecache.offline.parquet_files import ParquetFiles
from featurecache.offline.point_in_time import TimeRange

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BLOCK_BYTES = 1 << 20


class FileCard(msgspec.Struct, frozen=True):
    """One file."""

    name: str
    bytes: int
    rows: int
    sha256: str


class SourceCard(msgspec.Struct, frozen=True):
    """The files of a view, or of the spine."""

    name: str
    """Of the view; "spine"."""
    path: str
    event_time: str
    rows: int
    rows_without_key: int
    """Whom nobody can ask for."""
    skipped_rows: int
    """That the loader would not load, and that were left out therefore; they count as ``rows``, too."""
    first_event_time: str
    """ISO 8601 in UTC; "" without rows."""
    last_event_time: str
    files: list[FileCard]


class FeatureCard(msgspec.Struct, frozen=True):
    """One column of the training set."""

    feature: str
    column: str
    type: str
    null: int = 0
    """Values that the source has as null."""
    missing: int = 0
    """Rows for whom nothing was known then."""
    stale: int = 0
    """Rows for whom only something older than ``max_age`` was known."""
    defaulted: int = 0
    """Values that are the column's default, or NaN, instead."""
    defaulted_share: float = 0.0
    """Of the spine's rows."""


class DataCard(msgspec.Struct, frozen=True):
    """Everything one needs to know of a training set, or to make it again."""

    project: str
    service: str
    manifest_revision: int
    manifest_digest: str
    code_digest: str
    """Of the on-demand features' code; "" without."""
    rows: int
    left_out: dict[str, int]
    """Why a request for these spine rows would fail → how many were left out for it (a row may count twice)."""
    tensors: dict[str, list[str]]
    """The model's input tensors ("" for the only one) → columns, in order."""
    features: list[FeatureCard]
    kept: list[str]
    """Columns of the spine."""
    spine: SourceCard
    sources: list[SourceCard]
    output: FileCard
    versions: dict[str, str]
    """Of the libraries that made it."""


def source_card(name: str, files: ParquetFiles, event_time: str, times: TimeRange) -> SourceCard:
    """Reads every file once, for its digest."""
    cards = [file_card(one.path, one.name, one.rows) for one in files.files]
    return SourceCard(
        name=name,
        path=files.label,
        event_time=event_time,
        rows=files.total_rows,
        rows_without_key=times.rows_without_key,
        skipped_rows=0 if files.skipped is None else len(files.skipped),
        first_event_time=_moment(times.first_us),
        last_event_time=_moment(times.last_us),
        files=cards,
    )


def file_card(path: Path, name: str, rows: int) -> FileCard:
    """Size and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return FileCard(name, size, rows, digest.hexdigest())


def _moment(micros: int | None) -> str:
    if micros is None:
        return ""
    try:
        return (_EPOCH + timedelta(microseconds=micros)).isoformat()
    except OverflowError:
        return f"{micros} µs since 1970"


def write_card(card: DataCard, out: Path) -> None:
    """``<out>.card.json`` and ``<out>.card.md``."""
    text = msgspec.json.format(msgspec.json.encode(card, order="deterministic"), indent=2)
    out.with_name(f"{out.name}.card.json").write_bytes(text + b"\n")
    out.with_name(f"{out.name}.card.md").write_text(page(card), encoding="utf-8")


def page(card: DataCard) -> str:
    """The card in Markdown."""
    lines = [
        f"# {card.output.name}",
        "",
        f"{card.rows} rows for the feature service `{card.service}` of project `{card.project}`.",
        f"Definitions: revision {card.manifest_revision}, digest `{card.manifest_digest}`.",
        f"SHA-256 of the file: `{card.output.sha256}`, {card.output.bytes} bytes.",
        "",
        "## Columns",
        "",
        "| Column | Feature | Type | Null | Missing | Stale | Replaced |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| `{one.column}` | {one.feature} | {one.type} | {one.null} | {one.missing} | {one.stale} "
        f"| {one.defaulted_share:.2%} |"
        for one in card.features
    ]
    lines += [
        "",
        f"Kept from the spine: {', '.join(f'`{one}`' for one in card.kept) or 'nothing'}.",
    ]
    if card.left_out:
        lines += ["", "## Left out", ""]
        lines += [f"- {count} rows: {why}" for why, count in card.left_out.items()]
    lines += [
        "",
        "## Made from",
        "",
        "| What | Path | Files | Rows | Without key | Skipped | From | To |",
        "|---|---|--:|--:|--:|--:|---|---|",
    ]
    lines += [
        f"| {one.name} | `{one.path}` | {len(one.files)} | {one.rows} | {one.rows_without_key} "
        f"| {one.skipped_rows} | {one.first_event_time} | {one.last_event_time} |"
        for one in (card.spine, *card.sources)
    ]
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    return "\n".join([*lines, "", f"Made with {versions}.", ""])
