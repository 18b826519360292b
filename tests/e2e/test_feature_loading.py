"""``headrace features``, as its users call it, with a real store: loads that are killed, overlap, or meet bad files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurecache.manifests.applying import read_manifest
from featurecache.manifests.manifest import Manifest
from featurecache.rows.codec import RowCodec, is_sound
from tests.support.redis_servers import ValkeyServer
from tests.support.waiting import eventually

DEFINITIONS = """
from featurecache.definitions import *
project = Project("demo")
user = Entity("user", keys={"uid": Int64})
profile = FeatureView(
    "profile", entity=user, source=ParquetSource("profile/*.parquet", event_time="at"),
    columns=[*(Column(f"f{i}", Float32) for i in range(8)), Column("name", String, default="")],
)
fresh = FeatureView(
    "fresh", entity=user, source=ParquetSource("fresh/*.parquet", event_time="at"),
    columns=[Column("x", Float64), Column("v", Vector(Float32, 3))], max_age="1h", retention="1d",
)
service = FeatureService("scores", inputs=[profile["f0"], fresh["x"]])
"""
COMMAND_WITHIN_S = 120.0
CHECKOUT = Path(__file__).resolve().parents[2]
Newest = dict[int, tuple[int, float]]
"""By user: the newest event time and the values that go with it."""


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def workplace(server: ValkeyServer, tmp_path: Path) -> Workplace:
    with server.client() as client:
        client.flushall()
    place = Workplace(tmp_path, server)
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    place.run("apply", "definitions.py")
    return place


class Workplace:
    """A folder with definitions, data and a state folder; and the store."""

    def __init__(self, folder: Path, server: ValkeyServer) -> None:
        self.folder, self.server = folder, server
        self.environment = os.environ | {
            "HEADRACE_STORE_REDIS_URL": server.socket_url,
            "PYTHONPATH": str(CHECKOUT),
            "COLUMNS": "200",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "headrace", "features", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0, given: str = "") -> str:
        process = self.start(*words)
        try:
            out, err = process.communicate(given, COMMAND_WITHIN_S)
        finally:
            process.kill()
        assert process.returncode == code, out + err
        assert "Traceback" not in err
        return out + err

    def load(self, view: str = "profile", *options: str) -> dict[str, Any]:
        out = self.run("load", view, "--data", ".", "--json", *options)
        return json.loads(out[out.index("{") :].splitlines()[0])

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder / "features")

    def stored(self) -> Newest:
        """Every row of ``profile``, each of them sound."""
        codec, found = RowCodec(self.manifest.view("profile").schema), {}
        with self.server.client() as client:
            keys = list(client.scan_iter("hr:demo:{user:*}:profile", count=1000))
            rows = client.mget(keys) if keys else []
        assert all(is_sound(one) for one in rows)
        table = codec.table(rows)
        columns = [table.column(f"f{i}") for i in range(8)]
        for key, event, names, *values in zip(
            keys, table.event_us.tolist(), table.column("name"), *columns, strict=True
        ):
            assert len(set(values)) == 1, "a row of two writes"
            assert names == f"name {values[0]:g}".encode()
            found[int(key.split(b":")[3].rstrip(b"}"))] = (event, float(values[0]))
        return found

    def write_profiles(
        self, name: str, users: np.ndarray, event_us: np.ndarray, group_rows: int, newest: Newest
    ) -> None:
        """A file whose values follow from its times; ``newest`` is told what must remain."""
        values = (event_us % 65_521).astype(np.float64)
        columns: dict[str, Any] = {f"f{i}": values for i in range(8)}
        table = pa.table(
            {
                "uid": users,
                "at": pa.array(event_us, pa.timestamp("us", "UTC")),
                "name": [f"name {value:g}" for value in values.tolist()],
            }
            | columns
        )
        (self.folder / "profile").mkdir(exist_ok=True)
        pq.write_table(table, self.folder / "profile" / name, row_group_size=group_rows)
        for user, event, value in zip(
            users.tolist(), event_us.tolist(), values.tolist(), strict=True
        ):
            if event >= newest.get(user, (0, 0.0))[0]:
                newest[user] = (event, value)


def test_from_definitions_to_values(workplace: Workplace) -> None:
    now = time.time_ns() // 1000
    folder = workplace.folder / "fresh"
    folder.mkdir()
    table = pa.table(
        {
            "uid": [1, 2, 3],
            "at": pa.array([now - 60_000_000, now - 7_200_000_000, now - 90_000_000_000], pa.timestamp("us")),
            "x": [1.5, 2.5, 3.5],
            "v": [[1.0, 2.0, 3.0], None, [1.0, 2.0, 3.0]],
        }
    )  # fmt: skip
    pq.write_table(table, folder / "a.parquet")
    assert "2 created, 1 past their retention" in workplace.run("load", "fresh")
    (seen,) = json.loads(workplace.run("get", "fresh", "uid=1", "--json"))
    assert [(one["value"], one["status"]) for one in seen["values"]] == [
        (1.5, "PRESENT"),
        ([1.0, 2.0, 3.0], "PRESENT"),
    ]
    assert 60 <= seen["age_s"] < 120
    assert 0 < seen["expires_in_s"] <= 86_400 - 60
    assert "STALE" in workplace.run("get", "fresh", "uid=2")
    assert "MISSING" in workplace.run("get", "fresh", "uid=3", code=1)
    said = workplace.run("get", "scores", "uid=1", code=1)  # no profile was loaded
    assert "profile.f0" in said
    assert "fresh.x" in said
    told = workplace.run("inspect", "fresh", "uid=1")
    assert "checksum" in told
    assert "(current)" in told
    assert "1 newer" in workplace.run("push", "fresh", "--row", '{"uid": 1, "x": 9, "v": null}')
    (seen,) = json.loads(workplace.run("get", "fresh", "uid=1", "--json"))
    assert [(one["value"], one["status"]) for one in seen["values"]] == [
        (9.0, "PRESENT"),
        (None, "NULL"),
    ]


def test_pushed_lines_are_read_from_standard_input(workplace: Workplace) -> None:
    lines = [json.dumps({"uid": i, "x": i, "v": [i, i, i]}) for i in range(2500)]
    assert "2500 created" in workplace.run("push", "fresh", given="\n".join(lines))
    bad = [*lines[:1500], '{"uid": 1, "x": "one", "v": null}']
    said = workplace.run("push", "fresh", given="\n".join(bad), code=2)
    assert "row 1501: 'x' is 'one', not a number; the first 1000 rows are written" in said


def test_bad_rows_stop_everything_or_are_left_out(workplace: Workplace) -> None:
    now = time.time_ns() // 1000
    newest: Newest = {}
    workplace.write_profiles("a.parquet", np.arange(100), np.full(100, now), 30, newest)
    future = np.full(50, now)
    future[33] += 3_600_000_000
    workplace.write_profiles("b.parquet", np.arange(50), future, 20, {})
    said = workplace.run("load", "profile", "--data", ".", code=2)
    assert "1 of 150 rows cannot be loaded, nothing was written" in said
    assert "profile/b.parquet, row group 1, row 13: event time 'at' is in the future" in said
    assert workplace.stored() == {}
    summary = workplace.load("profile", "--on-bad-row", "skip")
    assert (summary["rows"], summary["skipped"]) == (150, 1)
    assert sum(summary["counts"].values()) == 149
    assert workplace.stored() == newest


def test_a_missing_column_is_told_before_anything_is_written(workplace: Workplace) -> None:
    (workplace.folder / "profile").mkdir()
    table = pa.table({"uid": [1], "at": pa.array([0], pa.timestamp("us")), "f0": ["x"]})
    pq.write_table(table, workplace.folder / "profile" / "a.parquet")
    said = workplace.run("load", "profile", code=2)
    assert "column 'f0' is string" in said
    assert "column 'f1' is missing" in said
    assert "column 'name' is missing" in said


@pytest.mark.parametrize("seed", range(5))
def test_a_load_that_is_killed_goes_on_and_ends_complete(workplace: Workplace, seed: int) -> None:
    rng, dice = np.random.default_rng(seed), random.Random(seed)
    now, newest = time.time_ns() // 1000, Newest()
    for name in ("a.parquet", "b.parquet", "c.parquet"):
        users = rng.integers(0, 40_000, 60_000)
        workplace.write_profiles(name, users, now - rng.integers(0, 10**9, 60_000), 4_000, newest)
    kills = 0
    for _ in range(3):
        process = workplace.start("load", "profile", "--data", ".")
        try:
            least = dice.randrange(1, 30_000) if not kills else 1
            with workplace.server.client() as client:
                eventually(
                    "rows arrive, or the load ends",
                    lambda: client.dbsize() > least or process.poll() is not None,  # noqa: B023
                    within_s=60.0,
                )
            time.sleep(dice.random() * 0.3)
            kills += process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    summary = workplace.load()
    assert kills, "no run was caught in the middle"
    assert workplace.stored() == newest
    assert summary["rows"] == 180_000
    assert sum(summary["counts"].values()) == 180_000
    assert not list((workplace.folder / ".headrace" / "loads").glob("*.json"))


def test_a_load_goes_on_after_the_row_groups_that_are_done(workplace: Workplace) -> None:
    now, newest = time.time_ns() // 1000, Newest()
    workplace.write_profiles("a.parquet", np.arange(300_000), np.full(300_000, now), 5_000, newest)
    process = workplace.start("load", "profile", "--data", ".")
    loads = workplace.folder / ".headrace" / "loads"
    try:

        def groups_done() -> int:
            files = list(loads.glob("*.json"))
            return int(json.loads(files[0].read_bytes())["groups"]) if files else 0

        eventually("two row groups are noted", lambda: groups_done() >= 2, within_s=60.0)
    finally:
        process.kill()
        process.communicate()
    done = groups_done()
    assert done < 60
    summary = workplace.load()
    assert summary["resumed_rows"] == done * 5_000
    assert summary["rows"] == sum(summary["counts"].values()) == 300_000
    assert workplace.stored() == newest


def test_a_store_that_was_emptied_meanwhile_is_filled_from_the_start(workplace: Workplace) -> None:
    now, newest = time.time_ns() // 1000, Newest()
    workplace.write_profiles("a.parquet", np.arange(200_000), np.full(200_000, now), 5_000, newest)
    process = workplace.start("load", "profile", "--data", ".")
    loads = workplace.folder / ".headrace" / "loads"
    try:
        eventually(
            "something is noted",
            lambda: any(b'"groups":0' not in one.read_bytes() for one in loads.glob("*.json")),
            within_s=60.0,
        )
    finally:
        process.kill()
        process.communicate()
    with workplace.server.client() as client:
        client.flushall()
    assert workplace.load()["resumed_rows"] == 0
    assert workplace.stored() == newest


def test_loads_that_overlap_leave_the_newest(workplace: Workplace) -> None:
    rng, newest = np.random.default_rng(3), Newest()
    now = time.time_ns() // 1000
    processes = []
    for number in range(3):
        other = Workplace(workplace.folder / str(number), workplace.server)
        other.folder.mkdir()
        users = rng.integers(0, 5_000, 40_000)
        other.write_profiles(
            "a.parquet", users, now - rng.integers(0, 10**9, 40_000), 9_000, newest
        )
        processes.append(
            other.start("load", "profile", "--manifest", str(workplace.folder / "features"))
        )
    for process in processes:
        out, err = process.communicate(timeout=COMMAND_WITHIN_S)
        assert process.returncode == 0, out + err
    assert workplace.stored() == newest


def test_a_store_that_loses_everything_during_the_load_gets_it_all(tmp_path: Path) -> None:
    now, newest = time.time_ns() // 1000, Newest()
    with ValkeyServer() as own:
        place = Workplace(tmp_path, own)
        (tmp_path / "definitions.py").write_text(DEFINITIONS)
        place.run("apply", "definitions.py")
        place.write_profiles("a.parquet", np.arange(200_000), np.full(200_000, now), 5_000, newest)
        process = place.start("load", "profile", "--json")
        try:
            with own.client() as client:
                eventually("rows arrive", lambda: client.dbsize() > 40_000, within_s=60.0)
            own.kill()
            own.start()
            out, err = process.communicate(timeout=COMMAND_WITHIN_S)
        finally:
            process.kill()
        assert process.returncode == 0, out + err
        assert json.loads(out)["repeats"] > 0
        assert place.stored() == newest


def test_the_store_agrees_with_the_files_until_it_is_changed(workplace: Workplace) -> None:
    now, newest = time.time_ns() // 1000, Newest()
    workplace.write_profiles(
        "a.parquet", np.arange(3_000) % 500, now - np.arange(3_000), 700, newest
    )
    workplace.load()
    said = json.loads(workplace.run("verify", "profile", "--entities", "400", "--json"))
    (view,) = said["views"]
    assert (view["entities"], view["differing"]) == (410, 0)
    changed = {f"f{i}": 0.25 for i in range(8)} | {"uid": 7, "name": "other"}
    workplace.run("push", "profile", "--row", json.dumps(changed))
    told = workplace.run("verify", "profile", "--entities", "500", code=1)
    assert "profile 7 f0: store 0.25, files" in told
    workplace.run("verify", "profile", "--entities", "500", "--min-agreement", "0.99")


def test_a_training_set_has_what_was_known(workplace: Workplace) -> None:
    now = time.time_ns() // 1000 - 10**9
    times = np.array([now, now + 2_000_000])
    workplace.write_profiles("a.parquet", np.array([1, 1]), times, 10, Newest())
    (workplace.folder / "fresh").mkdir()
    row = {
        "uid": [1],
        "at": pa.array([now], pa.timestamp("us")),
        "x": [4.5],
        "v": [[1.0, 2.0, 3.0]],
    }
    pq.write_table(pa.table(row), workplace.folder / "fresh" / "a.parquet")
    spine = pa.table(
        {"uid": [1, 1], "asked": pa.array(times + 1, pa.timestamp("us")), "late": [0, 1]}
    )
    pq.write_table(spine, workplace.folder / "spine.parquet")
    workplace.run(
        "training-set", "scores", "--spine", "spine.parquet", "--time-column", "asked",
        "--out", "train.parquet",
    )  # fmt: skip
    made = pq.read_table(workplace.folder / "train.parquet").to_pydict()
    f0 = next(name for name in made if "f0" in name)
    assert made[f0] == (times % 65_521).tolist()
    assert made["late"] == [0, 1]


def test_of_equal_times_the_last_in_the_file_wins(workplace: Workplace) -> None:
    now = time.time_ns() // 1000
    (workplace.folder / "fresh").mkdir()
    table = pa.table(
        {
            "uid": [1] * 40,
            "at": pa.array([now] * 40, pa.timestamp("us")),
            "x": [float(i) for i in range(40)],
            "v": [[0.0, 0.0, 0.0]] * 40,
        }
    )
    pq.write_table(table, workplace.folder / "fresh" / "a.parquet", row_group_size=3)
    counts = workplace.load("fresh")["counts"]
    assert counts == {
        "created": 1, "newer": 0, "rewritten": 13, "older": 0, "expired": 0, "duplicates": 26,
    }  # fmt: skip
    (seen,) = json.loads(workplace.run("get", "fresh", "uid=1", "--json"))
    assert seen["values"][0]["value"] == 39.0
