"""``headrace features get`` and ``push`` with a real store: what is told of keys, computed values, rows and rights."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_servers import ValkeyServer

DEFINITIONS = """
from featurecache.definitions import *
project = Project("demo")
route = Entity("route", keys={"carrier": String, "number": Int64})
city = Entity("city", keys={"name": String})
flights = FeatureView("flights", entity=route, columns=[Column("late", Float32, default=1.5)])
places = FeatureView("places", entity=city, columns=[Column("people", Int64)])
hour = Input("hour", Int32)

@on_demand(inputs=[flights["late"], route["number"]], output=Column("sum", Float64))
def sum_(late, number):
    return late.astype(float) + number

@on_demand(inputs=[sum_, hour], output=Column("asked", Float64))
def asked(sum_, hour):
    return sum_ + hour

@on_demand(inputs=[sum_], output=Column("text", String))
def text(sum_):
    return [f"{one:g}" for one in sum_]

@on_demand(inputs=[places.by(name="to")["people"]], output=Column("crowd", Int64))
def crowd(people):
    return people * 2

service = FeatureService("s", inputs=[flights["late"], sum_, asked, text, crowd])
"""
COMMAND_WITHIN_S = 60.0
KEYS = ("carrier=A|B", "number=-5", "to=Rome")
LINES = 1003
NOW_US = time.time_ns() // 1000


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def folder(server: ValkeyServer, tmp_path: Path) -> Path:
    with server.client() as client:
        client.flushall()
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    run(tmp_path, "apply", "definitions.py")
    return tmp_path


def run(folder: Path, *words: str, code: int = 0, given: str = "") -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "headrace", "features", *words],
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
        check=False,
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout + ended.stderr


def test_a_service_is_shown_by_its_keys_with_what_needs_no_request(
    folder: Path, server: ValkeyServer
) -> None:
    store = ("--store", server.url)
    row = json.dumps({"carrier": "A|B", "number": -5, "late": 2.5})
    run(folder, "push", "flights", "--row", row, *store)
    said = run(folder, "get", "s", *KEYS, *store, code=1).splitlines()  # nobody knows Rome
    lines = {line.split()[0]: " ".join(line.split()) for line in said}
    assert lines["flights.late"].startswith("flights.late carrier=A|B number=-5 2.5 PRESENT ")
    assert lines["places.people"] == "places.people to=Rome - MISSING -"
    assert lines["sum"] == "sum - -2.5 COMPUTED -"
    assert lines["text"] == "text - -2.5 COMPUTED -"
    assert lines["asked"] == "asked - - needs the request's values -"
    assert lines["crowd"].startswith("crowd - - ")  # a number that nothing can stand in for
    assert "'people'" in lines["crowd"]
    run(folder, "push", "places", "--row", '{"name": "Rome", "people": 21}', *store)
    seen: list[dict[str, Any]] = json.loads(run(folder, "get", "s", *KEYS, *store, "--json"))
    assert [(one["on_demand"], one["value"], one["problem"]) for one in seen[2:]] == [
        ("sum", -2.5, ""),
        ("asked", None, "needs the request's values"),
        ("text", "-2.5", ""),
        ("crowd", 42, ""),
    ]


def test_a_bad_time_far_down_is_told_by_its_line(folder: Path, server: ValkeyServer) -> None:
    lines = [json.dumps({"name": f"c{i}", "people": i}) for i in range(LINES)]
    for bad, told in (
        ({"event_time": "2100-01-01T00:00:00Z"}, f"row {LINES + 1}: its event time is "),
        (
            {"event_time": 1_795_450_874},
            f"row {LINES + 1}: 'event_time' is 1795450874, which looks",
        ),
    ):
        last = json.dumps({"name": "late", "people": 1} | bad)
        given = "\n".join([*lines, last])
        said = run(folder, "push", "places", "--store", server.url, given=given, code=2)
        assert told in said
        assert "the first 1000 rows are written" in said
    in_numbers = json.dumps({"name": "now", "people": 1, "event_time": NOW_US})
    assert "1 created" in run(folder, "push", "places", "--store", server.url, given=in_numbers)
    assert "no rows came" in run(folder, "push", "places", "--store", server.url, code=2)


def test_who_may_not_name_its_connection_is_told_what_it_needs(
    folder: Path, server: ValkeyServer
) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "half", "on", ">s3cret", "~hr:*", "+get", "+mget")
    url = f"redis://half:s3cret@127.0.0.1:{server.port}"
    said = run(folder, "get", "places", "name=Rome", "--store", url, code=1)
    assert "CLIENT SETNAME" in said
    assert "PTTL" in said
    assert "s3cret" not in said
