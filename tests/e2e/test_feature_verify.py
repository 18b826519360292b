"""``headrace features verify --url``: files compared with what a running gateway's own lookup says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import models
from tests.support.redis_servers import ValkeyServer, free_ports
from tests.support.server_process import ServerProcess

DEFINITIONS = """
from featurecache.definitions import *
project = Project("demo")
user = Entity("user", keys={"uid": Int64, "name": String})
fresh = FeatureView(
    "fresh", entity=user, source=ParquetSource("fresh/*.parquet", event_time="at"),
    columns=[Column("x", Float32), Column("n", Int64, default=-1), Column("text", String, default="none"),
             Column("flag", Bool, default=False), Column("since", Timestamp, default=0),
             Column("v", Vector(Float32, 3))],
    max_age="1h", retention="2d",
)
strict = FeatureView(
    "strict", entity=user, source=ParquetSource("fresh/*.parquet", event_time="at"),
    columns=[Column("x", Float32)], max_age="1h", on_null="fail", on_stale="fail", on_missing="fail",
)
soon = FeatureView(
    "soon", entity=user, source=ParquetSource("soon/*.parquet", event_time="at"), columns=[Column("x", Float32)],
)
service = FeatureService("scores", inputs=[fresh["x"], strict["x"]])
"""
COMMAND_WITHIN_S = 60.0
CHECKOUT = Path(__file__).resolve().parents[2]
ROWS = 700


class Shop:
    """A folder with definitions and files, a store, and the gateway before it."""

    def __init__(self, folder: Path, store: ValkeyServer) -> None:
        self.folder, self.store = folder, store
        self.url = ""

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "headrace", "features", *words],
            cwd=self.folder,
            env=os.environ
            | {"HEADRACE_STORE_REDIS_URL": self.store.url, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=COMMAND_WITHIN_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def report(self, *words: str, code: int = 0) -> dict[str, Any]:
        out = self.run("verify", *words, "--entities", str(ROWS), "--json", code=code)
        found: dict[str, Any] = json.loads(out[out.index("{") :].splitlines()[0])
        return found

    def write(self) -> None:
        """Present, stale and forgotten rows; nulls, NaN, infinities, long and odd texts; one row that is bad."""
        now_us = time.time_ns() // 1000
        ages_s = [(60, 600, 7_200, 300_000)[i % 4] for i in range(ROWS)]
        x: list[float | None] = [i / 7 for i in range(ROWS)]
        x[3:9] = [None, float("nan"), float("inf"), None, -float("inf"), None]
        texts: list[str | None] = [f'é"\\\\ {i}' for i in range(ROWS)]
        texts[::4] = ["t" * 60_000] * len(texts[::4])
        texts[1] = None
        table = pa.table(
            {
                "uid": pa.array([*range(ROWS), None]),
                "name": pa.array([*(f"n|{i % 5}%" for i in range(ROWS)), "x"]),
                "at": pa.array([*(now_us - one * 10**6 for one in ages_s), now_us], pa.timestamp("us")),
                "x": pa.array([*x, 1.0], pa.float64()),
                "n": pa.array([*(2**62 + i for i in range(ROWS)), 1]),
                "text": pa.array([*texts, ""]),
                "flag": pa.array([i % 2 == 0 for i in range(ROWS + 1)]),
                "since": pa.array([-5, *range(ROWS)], pa.timestamp("us")),
                "v": pa.array([[1.0, None, i / 3] for i in range(ROWS + 1)]),
            }
        )  # fmt: skip
        (self.folder / "fresh").mkdir()
        pq.write_table(table, self.folder / "fresh" / "a.parquet", row_group_size=300)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    models.write_model(folder / "models", "plain", models.identity())
    (folder / "definitions.py").write_text(DEFINITIONS)
    with ValkeyServer() as store:
        shop = Shop(folder, store)
        shop.run("apply", "definitions.py")
        shop.write()
        assert "key 'uid' is null" in shop.run("load", "fresh", code=2)
        shop.run("load", "fresh", "strict", "--on-bad-row", "skip")
        settings = {"features.manifest": folder / "features", "store.redis_url": store.url}
        with ServerProcess(folder / "models", settings) as server:
            shop.url = "http://{}:{}".format(*server.admin)
            yield shop


def test_what_was_loaded_agrees_through_the_gateway(shop: Shop) -> None:
    for words in (("--url", shop.url), ()):
        found = shop.report("fresh", "strict", "--on-bad-row", "skip", *words)
        assert found["differences"] == []
        assert found["agreement"] == 1.0
        assert [(one["view"], one["entities"], one["known"]) for one in found["views"]] == [
            ("fresh", ROWS + 10, ROWS),
            ("strict", ROWS + 10, ROWS),
        ]
    said = shop.run("verify", "fresh", "--url", shop.url, code=2)
    assert "fresh/a.parquet, row group 2, row 100: key 'uid' is null" in said


def test_a_row_changed_behind_its_back_is_listed(shop: Shop) -> None:
    before = shop.store.client().get("hr:demo:{user:9|n%7C4%25}:fresh")
    row = {"uid": 9, "name": "n|4%", "x": 0.1, "n": 1, "text": "new", "flag": True,
           "since": 5, "v": [1, 2, 3]}  # fmt: skip
    assert "1 newer" in shop.run("push", "fresh", "--row", json.dumps(row))
    try:
        found = shop.report("fresh", "--on-bad-row", "skip", "--url", shop.url, code=1)
        told = {one["column"]: one["online"] for one in found["differences"]}
        assert {tuple(one["entity"]) for one in found["differences"]} == {(9, "n|4%")}
        assert told["x"] == "0.1"
        assert told["text"] == "'new'"
        assert told[""].startswith("event time 20")
        assert 0.99 < found["agreement"] < 1.0
    finally:
        shop.store.client().set("hr:demo:{user:9|n%7C4%25}:fresh", before or b"")


def test_where_nothing_could_be_compared_no_agreement_is_told(shop: Shop) -> None:
    at = pa.array([time.time_ns() // 1000 + 250_000_000], pa.timestamp("us"))
    (shop.folder / "soon").mkdir()
    table = pa.table({"uid": [1], "name": ["a"], "at": at, "x": [1.0]})
    pq.write_table(table, shop.folder / "soon" / "a.parquet")
    assert "1 created" in shop.run("load", "soon")
    for words in (("--url", shop.url), ()):
        told = shop.run("verify", "soon", *words, code=1)
        assert "soon  11        20      0          1          -" in told
        assert "warning: nothing of view 'soon' was compared" in told
        assert shop.report("soon", *words, code=1)["agreement"] is None
    shop.run("verify", "soon", "--min-agreement", "0")


def test_what_does_not_answer_is_told(shop: Shop) -> None:
    skip = ("verify", "fresh", "--on-bad-row", "skip")
    (port,) = free_ports(1)
    told = shop.run(*skip, "--url", f"http://127.0.0.1:{port}", code=1)
    assert f"http://127.0.0.1:{port}: no gateway answers there" in told
    for url in ("127.0.0.1:8002", "ftp://x", "http://", "http://a:b"):
        assert "is no address of a gateway" in shop.run(*skip, "--url", url, code=2)
    assert "give one of them" in shop.run(*skip, "--url", "http://x", "--store", "y", code=2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_answer_nonsense, args=(listening,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert "answers with what is no lookup" in shop.run(*skip, "--url", url, code=1)
        thread.join(COMMAND_WITHIN_S)


def _answer_nonsense(listening: socket.socket) -> None:
    peer, _ = listening.accept()
    with peer:
        peer.recv(65_536)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def test_other_definitions_are_told(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text(DEFINITIONS.replace('"1h", ret', '"2h", ret'))
    shop.run("apply", str(tmp_path / "definitions.py"), "--to", str(tmp_path / "other"))
    words = ("--manifest", str(tmp_path / "other"), "--on-bad-row", "skip", "--url", shop.url)
    assert "has other definitions (revision 1" in shop.run("verify", "fresh", *words, code=1)
