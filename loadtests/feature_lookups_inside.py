"""The parts of the lookup bench that use the product's own packages, in a process of their own.

``write`` puts manifest and rows where the gateway finds them, ``decode`` times rows into a tensor, ``load`` times the
loader. One JSON value on stdout. It must never be imported by the command that measures servers: a harness shares no
code with what it judges.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import hiredis
import msgspec
import numpy as np
import redis

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    ParquetSource,
    Project,
    String,
)
from featurecache.joining.assembly import ModelInput
from featurecache.joining.resolve import ServicePlan
from featurecache.lookups.lookup_waiting import Lookup
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.manifest import Manifest, decode_manifest, encode_manifest
from featurecache.rows.codec import RESIDUE, RowCodec
from featurecache.rows.keys import key_frame
from loadtests import feature_lookups_data as data

LOADED_COLUMNS = 20
LOADED_VIEW = "loaded"
_COMMANDS_AT_ONCE = 2_000


# -- definitions and rows -------------------------------------------------------------------------


def definitions() -> Manifest:
    """A view of all features without and one with copies, five views of ten, and one to load."""
    entity = Entity(data.ENTITY, keys={data.ENTITY: String})

    def view(name: str, columns: Sequence[str], cache_ttl: float = 0.0) -> FeatureView:
        typed = [Column(one, Float32) for one in columns]
        return FeatureView(
            name,
            entity=entity,
            columns=typed,
            max_age="30d",
            cache_ttl=cache_ttl,
            on_missing="fail",
            on_stale="fail",
        )

    each = data.FEATURES // data.PARTS
    parts = [
        view(f"part{at}", data.COLUMNS[at * each : (at + 1) * each]) for at in range(data.PARTS)
    ]
    loaded = FeatureView(
        LOADED_VIEW,
        entity=entity,
        source=ParquetSource("*.parquet", event_time="event_timestamp"),
        columns=[Column(f"f{at}", Float32) for at in range(LOADED_COLUMNS)],
    )
    return compile_manifest(
        [
            Project(data.PROJECT),
            loaded,
            FeatureService("wide", inputs=view("wide", data.COLUMNS).all()),
            FeatureService("near", inputs=view("near", data.COLUMNS, 3600.0).all()),
            FeatureService("parts", inputs=[one for part in parts for one in part.all()]),
        ]
    )


def encoded(manifest: Manifest, name: str, count: int) -> dict[bytes, bytes]:
    """Rows of a view by key."""
    schema = manifest.view(name).schema
    table = data.values(count)
    now_us = time.time_ns() // 1000
    columns = {one: table[:, int(one[1:])] for one in schema.slots}
    rows = RowCodec(schema).encode(columns, {}, np.full(count, now_us), now_us)
    before, behind = key_frame(manifest.project, data.ENTITY, name)
    keys = [before + data.entity_id(at).encode() + behind for at in range(count)]
    return dict(zip(keys, rows, strict=True))


def write(options: argparse.Namespace) -> int:
    """Manifest and rows; how many there are."""
    manifest = definitions()
    options.manifest.write_bytes(encode_manifest(manifest))
    client = redis.Redis(unix_socket_path=options.url.removeprefix("unix://"))
    for name in ("wide", "near", *(f"part{at}" for at in range(data.PARTS))):
        rows = list(encoded(manifest, name, data.HOT if "part" in name else data.ALL).items())
        for start in range(0, len(rows), _COMMANDS_AT_ONCE):
            client.mset(dict(rows[start : start + _COMMANDS_AT_ONCE]))
    found = client.dbsize()
    client.close()
    return int(str(found))


# -- decode ---------------------------------------------------------------------------------------


class Timed(msgspec.Struct):
    """Microseconds of one piece of work."""

    least_us: float
    median_us: float
    runs: int


def decode(options: argparse.Namespace) -> dict[str, Timed]:
    """500 rows as the store sends them into the model's input: checksums, decoding, assembly."""
    manifest = decode_manifest(options.manifest.read_bytes(), "manifest")
    found = {}
    for name, views in (("wide", ["wide"]), ("parts", [f"part{at}" for at in range(data.PARTS)])):
        target = ModelInput(data.INPUT, "FP32", (-1, data.FEATURES))
        plan = ServicePlan(manifest, manifest.service(name), [target], {})
        ids = np.array([data.entity_id(at).encode() for at in range(options.rows)], np.object_)
        inputs = (ids.reshape(-1, 1),)
        wanted = plan.wanted(inputs, ())
        rows: list[bytes | None] = []
        for view in views:
            rows += encoded(manifest, view, options.rows).values()
        found[name] = _timed(_decoding(plan, inputs, wanted, rows), options.seconds)
    return found


def _decoding(
    plan: ServicePlan, inputs: object, wanted: object, rows: list[bytes | None]
) -> Callable[[], object]:
    now_us = time.time_ns() // 1000

    def once() -> object:
        for row in rows:
            if row is None or crc32(row) != RESIDUE:
                raise ValueError("a row arrived damaged")
        return plan.fill(inputs, wanted, Lookup(rows, settled=True), now_us)  # type: ignore[arg-type]

    [tensor] = plan.fill(inputs, wanted, Lookup(rows, settled=True), now_us).tensors  # type: ignore[arg-type]
    if not np.array_equal(tensor, data.values(len(tensor))):
        raise ValueError("what was decoded is not what was encoded")
    return once


def _timed(work: Callable[[], object], seconds: float) -> Timed:
    took: list[float] = []
    give_up_s = time.perf_counter() + seconds
    while time.perf_counter() < give_up_s:
        began = time.perf_counter_ns()
        work()
        took.append((time.perf_counter_ns() - began) / 1e3)
    return Timed(min(took), statistics.median(took), len(took))


# -- load -----------------------------------------------------------------------------------------


class Loaded(msgspec.Struct):
    """Rows a second, and what they are made of."""

    rows: int
    whole: float
    """Checking every row before the first is written, and writing."""
    writing: float
    plain_sets: float
    """The same keys and bytes as pipelined SETs, packed before the clock starts."""
    row_bytes: int
    why_not: str = ""


def load(options: argparse.Namespace) -> Loaded:
    """The loader over one Parquet file, then the store's own limit on the same keys and bytes."""
    try:
        from featurecache.writing.loader import ViewLoader
        from featurecache.writing.store_client import StoreClients
    except ImportError as missing:
        return Loaded(0, 0.0, 0.0, 0.0, 0, f"not there yet: {missing}")
    manifest = definitions()
    clients = StoreClients(options.url)
    with tempfile.TemporaryDirectory() as state:
        began_s = time.perf_counter()
        loader = ViewLoader(
            manifest, manifest.view(LOADED_VIEW), options.data, clients, Path(state)
        )
        loader.check()
        checked_s = time.perf_counter()
        summary = loader.load()
        ended_s = time.perf_counter()
    if summary.counts.created != summary.rows:
        raise ValueError(f"{summary.counts} of {summary.rows} rows")
    clients.close()
    place = options.url.removeprefix("unix://")
    client = redis.Redis(unix_socket_path=place)
    keys = [
        one
        for one in client.scan_iter(match=f"*:{LOADED_VIEW}", count=5_000)
        if isinstance(one, bytes)
    ]
    rows = [row for row in client.mget(keys) if isinstance(row, bytes)]
    client.flushall()
    client.close()
    return Loaded(
        rows=summary.rows,
        whole=summary.rows / (ended_s - began_s),
        writing=summary.rows / (ended_s - checked_s),
        plain_sets=plain_sets(place, keys, rows),
        row_bytes=len(rows[0]),
    )


def plain_sets(place: str, keys: list[bytes], rows: list[bytes]) -> float:
    """Rows a second that the store takes as pipelined SETs, one batch being sent while another is answered."""
    batches = []
    for start in range(0, len(keys), _COMMANDS_AT_ONCE):
        pairs = zip(
            keys[start : start + _COMMANDS_AT_ONCE],
            rows[start : start + _COMMANDS_AT_ONCE],
            strict=True,
        )
        packed = [
            b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(row), row)
            for key, row in pairs
        ]
        batches.append((b"".join(packed), len(packed)))
    reader = hiredis.Reader()
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(30.0)
        line.connect(place)
        began_s = time.perf_counter()
        waiting = 0
        for packed_batch, count in batches:
            line.sendall(packed_batch)
            waiting += count
            while waiting > _COMMANDS_AT_ONCE:
                waiting -= _replies(line, reader)
        while waiting:
            waiting -= _replies(line, reader)
        return len(keys) / (time.perf_counter() - began_s)


def _replies(line: socket.socket, reader: hiredis.Reader) -> int:
    text = line.recv(1 << 16)
    if not text:
        raise ConnectionError("the store closed the connection")
    reader.feed(text)
    count = 0
    while (reply := reader.gets()) is not False:
        if reply != b"OK":
            raise ValueError(f"the store refused a SET: {reply!r}")
        count += 1
    return count


def main() -> None:
    """Reads the options, works, prints."""
    parser = argparse.ArgumentParser(description="One part of the lookup bench; prints JSON.")
    does = {"write": write, "decode": decode, "load": load}
    parser.add_argument("what", choices=tuple(does))
    parser.add_argument("--url", default="")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--data", type=Path, help="the folder of Parquet files to load")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    sys.stdout.write(msgspec.json.encode(does[options.what](options)).decode() + "\n")


if __name__ == "__main__":
    main()
