"""Rows that are written as blocks are those that are written one by one: bytes, counts, retention."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurecache.columns import parse_type
from featurecache.definitions import (
    Column,
    Entity,
    FeatureView,
    Float32,
    ParquetSource,
    Project,
    String,
    Vector,
)
from featurecache.manifests.compiling import compile_manifest
from featurecache.rows.codec import RowCodec, is_sound
from featurecache.rows.schema import RowSchema
from featurecache.writing import parquet_source
from featurecache.writing.key_column import KeyColumn
from featurecache.writing.parquet_source import ParquetView
from featurecache.writing.store_client import StoreClients
from featurecache.writing.writing import RowWriter, WriteCounts
from tests.support.redis_servers import ValkeyServer

DAY_US = 86_400_000_000
PREFIX, SUFFIX = b"hr:p:{e:", b"}:v"


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


def dump(server: ValkeyServer) -> dict[bytes, tuple[bytes, int]]:
    with server.client() as client:
        found = {key: (client.get(key), client.pexpiretime(key)) for key in client.scan_iter()}
        client.flushall()
    return found


def write(
    server: ValkeyServer,
    keys: Sequence[bytes] | KeyColumn,
    codec: RowCodec,
    x: np.ndarray,
    event_us: np.ndarray,
    keep_us: int | None,
    now_us: int,
) -> WriteCounts:
    nulls = {"x": np.isnan(x[:, 0])}
    with StoreClients(server.socket_url) as clients:
        writer = RowWriter(clients)
        for write_us in (now_us, now_us + 1):
            writer.write_columns(
                codec, keys, {"x": x}, nulls, event_us,
                write_us=write_us, now_us=now_us, keep_us=keep_us,
            )  # fmt: skip
        writer.flush()
        writer.close()
        return writer.counts


@pytest.mark.parametrize("keep_us", [None, DAY_US])
@pytest.mark.parametrize("flaw", ["", "twice", "expired"])
@pytest.mark.parametrize("length", [1, 700, 3_000])
def test_a_column_of_keys_and_a_list_of_them_leave_the_same_store(
    server: ValkeyServer, keep_us: int | None, flaw: str, length: int
) -> None:
    """Of 3,000 values a call holds the rows of 64 KiB, which are five; of one, as many as a call may have."""
    rows = 2_500 if length == 1 else 130
    codec = RowCodec(RowSchema([("x", parse_type(f"float32[{length}]"))]))
    now_us = time.time_ns() // 1000
    x = np.random.default_rng(3).random((rows, length), np.float32)
    x[7] = np.nan
    event_us = now_us - np.arange(rows, dtype=np.int64)
    ids = [b"%d" % i for i in range(rows)]
    if flaw == "twice":
        ids[100] = ids[20]
    if flaw == "expired":
        event_us[100] -= 2 * DAY_US
    column = KeyColumn(PREFIX, SUFFIX, pa.array(ids, pa.large_binary()))
    counts = write(server, column, codec, x, event_us, keep_us, now_us)
    stored = dump(server)
    assert counts == write(server, column.listed(), codec, x, event_us, keep_us, now_us)
    assert stored == dump(server)
    lost = 1 if flaw == "twice" or (flaw and keep_us) else 0
    assert (counts.created, counts.rewritten, len(stored)) == (rows - lost,) * 3
    assert all(is_sound(row) for row, _ in stored.values())
    assert all((at > 0) == (keep_us is not None) for _, at in stored.values())


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_block_holds_the_rows_that_are_made_one_by_one(rows: int) -> None:
    codec = RowCodec(RowSchema([("a", parse_type("int64")), ("b", parse_type("float32"))]))
    columns: dict[str, np.ndarray] = {
        "a": np.arange(rows),
        "b": np.linspace(0, 1, rows, dtype=np.float32),
    }
    nulls = {"b": np.arange(rows) % 2 == 1}
    event_us = np.arange(rows, dtype=np.int64)
    block = codec.encode_block(columns, nulls, event_us, 9)
    assert block.shape == (rows, codec.schema.row_bytes)
    assert [one.tobytes() for one in block] == codec.encode(columns, nulls, event_us, 9)
    assert all(is_sound(one.tobytes()) for one in block)


@pytest.mark.parametrize("chunk_bytes", [2**20, 10**8])
def test_values_of_any_size_stay_beside_the_numbers_of_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    """Strings and lists are read in other pieces than numbers: no row may get its neighbour's values."""
    monkeypatch.setattr(parquet_source, "MAX_CHUNK_VALUE_BYTES", chunk_bytes)
    rows, now_us = 9_001, time.time_ns() // 1000
    dice = np.random.default_rng(1)
    texts = ["t" * int(size) for size in dice.integers(0, 3_000, rows)]
    numbers = np.arange(rows, dtype=np.float32)
    bad = set(dice.integers(0, rows, 40).tolist())
    table = pa.table(
        {
            "uid": [None if i in bad else f"u{i}" for i in range(rows)],
            "at": pa.array(now_us - np.arange(rows), pa.timestamp("us")),
            "text": texts,
            "pair": pa.array([[i, i + 0.5] for i in range(rows)], pa.list_(pa.float32())),
            "x": numbers,
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5_000)
    view = FeatureView(
        "v",
        entity=Entity("e", keys={"uid": String}),
        columns=[
            Column("text", String, default=""),
            Column("pair", Vector(Float32, 2)),
            Column("x", Float32),
        ],
        source=ParquetSource("*.parquet", event_time="at"),
    )
    manifest = compile_manifest([Project("p"), view])
    source = ParquetView(manifest, manifest.view("v"), tmp_path)
    chunks = [one for group in (0, 1) for one in source.read(source.files[0], group, now_us)]
    good = [i for i in range(rows) if i not in bad]
    assert sum(one.bad_rows for one in chunks) == len(bad)
    assert [key for one in chunks for key in one.keys] == [
        PREFIX + b"u%d" % i + SUFFIX for i in good
    ]
    assert np.concatenate([one.columns["x"] for one in chunks]).tolist() == numbers[good].tolist()
    assert np.concatenate([one.columns["pair"][:, 1] for one in chunks]).tolist() == [
        i + 0.5 for i in good
    ]
    assert [len(text) for one in chunks for text in one.columns["text"]] == [
        len(texts[i]) for i in good
    ]
    assert [at for one in chunks for at in one.event_us.tolist()] == [now_us - i for i in good]
    if chunk_bytes == 2**20:
        assert max(sum(map(len, one.columns["text"])) for one in chunks) <= chunk_bytes
