"""Loads into a real store, within one process: what is checked, what is counted, where a stopped one goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurecache.definitions import (
    Column,
    Entity,
    FeatureView,
    Int64,
    ParquetSource,
    Project,
)
from featurecache.errors import FeatureError, RowError
from featurecache.manifests.compiling import compile_manifest
from featurecache.rows.codec import RowCodec
from featurecache.writing.loader import LoadSummary, OnBadRow, ViewLoader
from featurecache.writing.store_client import StoreClients
from featurecache.writing.writing import WriteCounts
from tests.support.redis_servers import ValkeyServer

VIEW = FeatureView(
    "v",
    entity=Entity("user", keys={"uid": Int64}),
    columns=[Column("x", Int64)],
    source=ParquetSource("*.parquet", event_time="at"),
    max_age="1d",
    retention="1d",
)
MANIFEST = compile_manifest([Project("p"), VIEW])
DAY_US = 86_400_000_000
GROUP_ROWS = 10


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def clients(server: ValkeyServer) -> Iterator[StoreClients]:
    with server.client() as one:
        one.flushall()
    with StoreClients(server.socket_url) as opened:
        yield opened


def now_us() -> int:
    return time.time_ns() // 1000


def write(folder: Path, name: str, uid: list[int], event_us: list[int], x: list[Any]) -> None:
    table = pa.table({"uid": uid, "at": pa.array(event_us, pa.timestamp("us")), "x": x})
    pq.write_table(table, folder / name, row_group_size=GROUP_ROWS)


def loader(
    folder: Path, clients: StoreClients, *, on_bad_row: OnBadRow = "fail", **options: Any
) -> ViewLoader:
    state = folder / "state"
    view = MANIFEST.view("v")
    return ViewLoader(MANIFEST, view, folder, clients, state, on_bad_row=on_bad_row, **options)


def load(folder: Path, clients: StoreClients, **options: Any) -> LoadSummary:
    one = loader(folder, clients, **options)
    one.check()
    return one.load()


def stored(server: ValkeyServer) -> dict[bytes, int]:
    with server.client() as client:
        keys = sorted(client.scan_iter("hr:p:{user:*}:v"))
        rows = client.mget(keys) if keys else []
    values = RowCodec(MANIFEST.view("v").schema).table(rows).column("x").tolist()
    return dict(zip(keys, values, strict=True))


def notes(folder: Path) -> list[Path]:
    return list((folder / "state" / "loads").glob("*.json"))


def test_everything_is_written_once_and_counted(
    tmp_path: Path, server: ValkeyServer, clients: StoreClients
) -> None:
    now = now_us()
    write(tmp_path, "a.parquet", [*range(25), 3], [now] * 25 + [now - DAY_US - 1], [*range(26)])
    told: list[tuple[int, int]] = []
    one = loader(tmp_path, clients)
    one.check(lambda done, total: told.append((done, total)))
    assert (told[-1], stored(server)) == ((26, 26), {})
    summary = one.load()
    assert summary.counts == WriteCounts(created=25, expired=1)
    assert (summary.rows, summary.skipped, summary.resumed_rows, summary.files) == (26, 0, 0, 1)
    assert stored(server) == {b"hr:p:{user:%d}:v" % i: i for i in range(25)}
    with server.client() as client:
        assert client.pexpiretime("hr:p:{user:3}:v") == now // 1000 + DAY_US // 1000
    assert notes(tmp_path) == []
    assert load(tmp_path, clients).counts == WriteCounts(rewritten=25, expired=1)


def test_of_equal_times_the_later_file_wins_and_an_older_row_does_not(
    tmp_path: Path, server: ValkeyServer, clients: StoreClients
) -> None:
    now = now_us()
    write(tmp_path, "b.parquet", [1, 2], [now, now - 1], [10, 20])
    write(tmp_path, "a.parquet", [1, 2], [now, now], [11, 21])
    counts = load(tmp_path, clients).counts
    assert counts == WriteCounts(created=2, rewritten=1, older=1)
    assert list(stored(server).values()) == [10, 21]


@pytest.mark.parametrize("bad_x", [2**63, None])
def test_a_bad_row_is_named_before_anything_is_written_or_left_out(
    tmp_path: Path, server: ValkeyServer, clients: StoreClients, bad_x: int | None
) -> None:
    now = now_us()
    uid: list[Any] = [*range(15)]
    uid[12] = None if bad_x is None else 12
    x = pa.array([bad_x if i == 12 and bad_x else i for i in range(15)], pa.uint64())
    table = pa.table({"uid": uid, "at": pa.array([now] * 15, pa.timestamp("us")), "x": x})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=GROUP_ROWS)
    one = loader(tmp_path, clients)
    with pytest.raises(RowError, match=r"1 of 15 rows cannot.*\n.*row group 1, row 2: ") as told:
        one.check()
    assert ("'uid' is null" if bad_x is None else "'x' is no int64") in str(told.value)
    assert (stored(server), notes(tmp_path)) == ({}, [])
    summary = load(tmp_path, clients, on_bad_row="skip")
    assert (summary.rows, summary.skipped, summary.counts.created) == (15, 1, 14)
    assert [(bad.row_group, bad.row) for bad in summary.bad] == [(1, 2)]
    assert sorted(stored(server).values()) == [i for i in range(15) if i != 12]


def test_a_load_that_was_stopped_goes_on_where_it_was_noted(
    tmp_path: Path, server: ValkeyServer, clients: StoreClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurecache.writing.loader.NOTE_EVERY_S", 0.0)
    write(tmp_path, "a.parquet", [*range(60)], [now_us()] * 60, [*range(60)])
    one = loader(tmp_path, clients)
    one.check()
    with pytest.raises(KeyboardInterrupt):
        one.load(_stopping_after(35))
    again = loader(tmp_path, clients)
    asked: list[int] = []
    again.check(lambda done, total: asked.append(done))
    assert (again.resumes, asked) == (30, [])
    with pytest.raises(FeatureError, match="another process loads the same files"):
        loader(tmp_path, clients).check()
    summary = again.load()
    assert (summary.rows, summary.resumed_rows, summary.counts.total) == (60, 30, 60)
    assert sorted(stored(server).values()) == list(range(60))


def test_a_store_that_was_emptied_or_files_that_changed_begin_anew(
    tmp_path: Path, server: ValkeyServer, clients: StoreClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurecache.writing.loader.NOTE_EVERY_S", 0.0)
    for change in ("store", "files", "from scratch"):
        write(tmp_path, "a.parquet", [*range(60)], [now_us()] * 60, [*range(60)])
        one = loader(tmp_path, clients, from_scratch=True)
        one.check()
        with pytest.raises(KeyboardInterrupt):
            one.load(_stopping_after(35))
        if change == "store":
            with server.client() as client:
                client.flushall()
        if change == "files":
            write(tmp_path, "a.parquet", [*range(61)], [now_us()] * 61, [*range(61)])
        again = loader(tmp_path, clients, from_scratch=change == "from scratch")
        again.check()
        assert again.resumes == 0, change
        assert again.load().counts.total == again.rows, change


def test_a_file_that_changes_between_check_and_load_stops_it(
    tmp_path: Path, server: ValkeyServer, clients: StoreClients
) -> None:
    write(tmp_path, "a.parquet", [1], [now_us()], [1])
    one = loader(tmp_path, clients)
    one.check()
    write(tmp_path, "a.parquet", [1, 2], [now_us()] * 2, [1, 2])
    with pytest.raises(RowError, match=r"a\.parquet changed while it was loaded"):
        one.load()
    assert stored(server) == {}


def _stopping_after(rows: int) -> Any:
    def told(done: int, total: int) -> None:
        if done > rows:
            raise KeyboardInterrupt

    return told
