"""``headrace features push | get | inspect``: single rows of the store, written and looked at. Thin.

Decides what is printed of a row. It must never decide what a row means: ``featurecache`` does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import typer

from featurecache.errors import RowError
from featurecache.manifests.manifest import Manifest, ViewSpec
from headrace.command_line import refuse, settings_here
from headrace.feature_asking import Asked, asked_of, computed_of
from headrace.feature_options import (
    AsJson,
    ManifestOption,
    StoreOption,
    manifest_of,
    one_sentence,
    packed_only,
    print_table,
    settings_and_manifest,
    store_clients,
    store_settings_of,
)

if TYPE_CHECKING:
    from featurecache.writing.looking import SeenComputed, SeenRow, SeenValue
    from featurecache.writing.store_keys import StoreKeys
    from foundation.store import StoreSettings
    from gateway.settings import GatewaySettings

MAX_LINE_BYTES = 1024 * 1024
PUSH_ROWS = 1000
"""Lines that are written together."""

Keys = Annotated[list[str] | None, typer.Argument(help="Join keys, such as origin=JFK.")]
View = Annotated[str, typer.Argument(help="Name of a feature view.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``headrace features``."""
    app.command()(push)
    app.command()(get)
    app.command()(inspect)


def push(
    view: View,
    row: Annotated[
        list[str] | None,
        typer.Option(help="A row as JSON. May be repeated. \\[default: lines of standard input]"),
    ] = None,
    manifest: ManifestOption = None,
    store: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Write rows, given as JSON objects, one a line. Without "event_time" a row is of this moment.

    Try it:  headrace features push airport_weather --row '{"origin": "JFK", "temp": 1.5, "sky": null}'

    A row that is older than the one in the store is ignored, and counted. Lines are written a thousand at a time: when
    a line is bad, those before its thousand are in the store, and it says so.
    """
    settings, found = settings_and_manifest(manifest)
    packed_only(settings)
    with one_sentence():
        spec = found.view(view)
        from featurecache.rows.codec import RowCodec
        from featurecache.rows.json_rows import JsonRows
        from featurecache.writing.writing import RowWriter

        reader, codec = JsonRows(found, spec), RowCodec(spec.schema)
        keep_us = None if spec.retention_s is None else int(spec.retention_s * 1e6)
        with store_clients(store_settings_of(store, settings)) as clients:
            writer = RowWriter(clients)
            try:
                for first, rows in _batches(row or _lines()):
                    now_us = _now_us()
                    batch = reader.batch(rows, now_us, first)
                    writer.write_columns(
                        codec,
                        batch.keys,
                        batch.columns,
                        batch.nulls,
                        batch.event_us,
                        write_us=now_us,
                        now_us=now_us,
                        keep_us=keep_us,
                        first_row=first,
                    )
                    writer.flush()
            except RowError as error:
                done = writer.counts.total
                before = f"the first {done} rows are written" if done else "nothing was written"
                raise RowError(f"{error}; {before}") from None
            finally:
                writer.close()
    if not writer.counts.total:
        refuse("no rows came by standard input; give JSON objects, one a line, or --row")
    counts = msgspec.structs.asdict(writer.counts)
    if as_json:
        typer.echo(msgspec.json.encode(counts).decode())
        return
    told = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    typer.echo(f"{view}: {told}")


def get(
    name: Annotated[str, typer.Argument(help="A feature view, or a feature service.")],
    keys: Keys = None,
    manifest: ManifestOption = None,
    store: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Show the values that a gateway would take from the store now, each with its status and age; from Feast's store
    where features.layout says so.

    Try it:  headrace features get airport_weather origin=JFK

    Of a service all its views are asked, and on-demand features computed that need nothing of a request. Exit code 1
    when a row is missing or cannot be read.
    """
    settings = settings_here()
    found, folder = manifest_of(manifest, settings)
    given = _pairs(keys)
    with one_sentence():
        asked = asked_of(found, name, given)
        pairs = _seen(settings, store_settings_of(store, settings), found, asked)
        seen = [one for one, _ in pairs]
        for row, of in zip(seen, asked, strict=True):
            row.values = [one for one in row.values if one.name in of.columns]
        rows = [one for _, one in pairs]
        computed = computed_of(found, folder, name, asked, rows, given, now_us=_now_us())
    if as_json:
        typer.echo(msgspec.json.encode([*seen, *computed]).decode())
    else:
        lines = [
            [f"{one.view}.{value.name}", of.entity, _shown(value), value.status, _age(one)]
            for one, of in zip(seen, asked, strict=True)
            for value in one.values
        ]
        lines += [
            [one.on_demand, "-", _shown(one), one.problem or one.status, "-"] for one in computed
        ]
        print_table(["FEATURE", "ENTITY", "VALUE", "STATUS", "AGE"], lines)
        for one in seen:
            if one.problem:
                typer.echo(f"{one.view}: {one.problem}", err=True)
    if any(one.status in ("MISSING", "ERROR") for one in seen):
        raise typer.Exit(1)


def inspect(
    view: View,
    keys: Keys = None,
    manifest: ManifestOption = None,
    store: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Take one row of the store apart: header, schema, checksum, columns, age, expiry and bytes.

    Try it:  headrace features inspect airport_weather origin=JFK
    """
    settings, found = settings_and_manifest(manifest)
    packed_only(settings)
    with one_sentence():
        spec = found.view(view)
        from featurecache.rows.json_rows import JsonRows
        from featurecache.writing.looking import raw
        from featurecache.writing.store_keys import StoreKeys

        key = JsonRows(found, spec).key(_pairs(keys))
        with store_clients(store_settings_of(store, settings)) as clients:
            seen, row = _see(StoreKeys(clients), spec, key)
    parts = raw(spec, row) if row is not None else None
    if as_json:
        both = {"row": seen, "raw": parts}
        typer.echo(msgspec.json.encode(both).decode())
    else:
        _print_row(seen, parts, row)
    if seen.status in ("MISSING", "ERROR"):
        raise typer.Exit(1)


def _seen(
    settings: GatewaySettings, target: StoreSettings, manifest: Manifest, asked: Sequence[Asked]
) -> list[tuple[SeenRow, bytes | None]]:
    """The rows that are asked for, taken apart and as they are, in whichever layout they lie."""
    if settings.features.layout == "feast":
        from featurecache.writing.looking import see
        from headrace.feast_reading import feast_rows

        rows = feast_rows(settings.features, target, manifest, [one.key for one in asked])
        now_us = _now_us()
        return [
            (
                see(one.view, one.key, rows[one.key], now_us=now_us, expires_in_s=None),
                rows[one.key],
            )
            for one in asked
        ]
    with store_clients(target) as clients:
        from featurecache.writing.store_keys import StoreKeys

        store_keys = StoreKeys(clients)
        return [_see(store_keys, one.view, one.key) for one in asked]


def _print_row(seen: SeenRow, parts: Any, row: bytes | None) -> None:
    expires = "never" if seen.expires_in_s is None else f"in {seen.expires_in_s:,.0f} s"
    lines = [["key", seen.key], ["status", seen.status]]
    if seen.problem:
        lines.append(["problem", seen.problem])
    if seen.event_time is not None:
        lines += [
            ["event time", f"{seen.event_time} ({_age(seen)} ago)"],
            ["written", str(seen.write_time)],
        ]
    if row is not None:
        lines.append(["expires", expires])
    if parts is not None:
        lines += [
            ["bytes", str(parts.bytes)],
            [
                "format",
                f"version {parts.format_version}, flags {parts.flags}, header {parts.header_bytes} bytes",
            ],
            ["schema", f"{parts.schema_id} ({parts.schema})"],
            ["checksum", parts.checksum],
            ["hex", parts.hex],
        ]
    print_table(["FIELD", "VALUE"], lines)
    if seen.values and seen.status not in ("MISSING", "ERROR"):
        typer.echo("")
        print_table(
            ["COLUMN", "TYPE", "VALUE", "STATUS"],
            [[one.name, one.type, _shown(one), one.status] for one in seen.values],
        )


def _see(store: StoreKeys, view: ViewSpec, key: bytes) -> tuple[SeenRow, bytes | None]:
    from featurecache.writing.looking import see

    row = store.get(key)
    left_ms = None if row is None else store.left_ms(key)
    left_s = None if left_ms is None else left_ms / 1e3
    return see(view, key, row, now_us=_now_us(), expires_in_s=left_s), row


def _pairs(keys: list[str] | None) -> dict[str, str]:
    pairs = {}
    for one in keys or []:
        name, equals, value = one.partition("=")
        if not equals:
            refuse(f"'{one}' is no join key; write NAME=VALUE, such as origin=JFK")
        pairs[name] = value
    return pairs


def _lines() -> Iterator[bytes]:
    stream = sys.stdin.buffer
    while line := stream.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise RowError(f"a line of more than {MAX_LINE_BYTES} bytes")
        if line.strip():
            yield line


def _batches(lines: Any) -> Iterator[tuple[int, list[Any]]]:
    """Rows with the number of the first of them, counted from 1."""
    first, rows = 1, []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RowError(f"row {number} is no JSON: {error}") from None
        if len(rows) == PUSH_ROWS:
            yield first, rows
            first, rows = number + 1, []
    if rows:
        yield first, rows


def _shown(one: SeenValue | SeenComputed) -> str:
    value = one.value
    if value is None:
        return "-"
    if isinstance(value, float) and one.type == "float32":
        return str(np.float32(value))  # as it was written: 9.8, not 9.800000190734863
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _age(seen: SeenRow) -> str:
    return "-" if seen.age_s is None else f"{seen.age_s:,.1f} s"


def _now_us() -> int:
    return time.time_ns() // 1000
