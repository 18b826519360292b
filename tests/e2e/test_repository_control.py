"""Versions come and go while callers ask: load, unload, poll, and what happens when something is wrong with a model."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import helper
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import StartServer
from tests.support import models
from tests.support.raw_http import (
    RawHttp,
    ask_once,
    floats_json,
    get,
    post_infer,
    post_infer_chunked,
    request,
)
from tests.support.served_models import plus, write_slow
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

WITHIN_S = 30.0
GOOD = post_infer("adder", floats_json())
ALL = '[versions]\npolicy = "all"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.write_model(tmp_path, "adder", plus(1.0), version=1)
    return tmp_path


@pytest.fixture
def start(folder: Path, start_server: StartServer) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers over the folder that end with the test, so that no more than its own poll at once."""
    started: list[ServerProcess] = []

    def with_control(control: str = "explicit", **settings: object) -> ServerProcess:
        server = start_server(
            folder,
            repository__control=control,
            repository__startup_models="*",
            repository__poll_interval_s=0.1,
            **settings,
        )
        started.append(server)
        return server

    yield with_control
    for server in started:
        server.stop()


def control(server: ServerProcess, verb: str, model: str = "adder", body: bytes = b"") -> Any:
    return ask_once(server.http, request("POST", f"/v2/repository/models/{model}/{verb}", [], body))


def index(server: ServerProcess) -> dict[tuple[str, str], tuple[str, str]]:
    entries = ask_once(server.http, request("POST", "/v2/repository/index", [], b"")).json
    return {(one["name"], one["version"]): (one["state"], one["reason"]) for one in entries}


def first_number(server: ServerProcess, model: str = "adder") -> float:
    answer = ask_once(server.http, post_infer(model, floats_json()))
    assert answer.status == 200, answer
    return float(answer.json["outputs"][0]["data"][0])


class SteadyCaller:
    """Asks without a pause; every answer must be right for one of the versions."""

    def __init__(self, server: ServerProcess, right: set[float]) -> None:
        self._server = server
        self._right = right
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: list[float] = []
        self.failure: BaseException | None = None

    def _run(self) -> None:
        try:
            with RawHttp(self._server.http) as connection:
                while not self._stop.is_set():
                    answer = connection.ask(GOOD)
                    assert answer.status == 200, answer
                    number = answer.json["outputs"][0]["data"][0]
                    assert number in self._right, answer
                    if not self.seen or self.seen[-1] != number:
                        self.seen.append(number)
        except BaseException as error:  # noqa: BLE001  told by the test's own thread
            self.failure = error

    def __enter__(self) -> SteadyCaller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WITHIN_S)
        if self.failure is not None:
            raise AssertionError("a call failed during a swap") from self.failure


@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize("mode", ["none", "poll"])
def test_callers_change_nothing_unless_that_is_asked_for(
    start: Callable[..., ServerProcess], mode: str, verb: str
) -> None:
    server = start(mode)
    refused = control(server, verb)
    assert refused.status == 403
    assert "explicit" in refused.error
    assert first_number(server) == 1.0


def test_a_swap_that_no_caller_notices(start: Callable[..., ServerProcess], folder: Path) -> None:
    server = start()
    with SteadyCaller(server, {1.0, 2.0, 3.0}) as caller:
        eventually("the first version answers", lambda: caller.seen == [1.0], within_s=WITHIN_S)
        models.write_model(folder, "adder", plus(2.0), version=2)
        assert control(server, "load").status == 200
        assert first_number(server) == 2.0, "the swap is over when the call is"
        models.write_model(folder, "adder", plus(3.0), version=2)  # the same number, other files
        assert control(server, "load").status == 200
        assert first_number(server) == 3.0
        eventually("the caller sees it", lambda: caller.seen[-1] == 3.0, within_s=WITHIN_S)
    assert caller.seen == [1.0, 2.0, 3.0], "no version answers again after its successor"
    assert index(server)["adder", "2"] == ("READY", "")
    assert ("adder", "1") not in index(server)


def renamed() -> bytes:
    """``other = name``: nobody who asks for ``x`` can be served by it."""
    return models.graph(
        [helper.make_node("Identity", ["name"], ["other"])],
        {"name": ("FP32", ("n", 4))},
        {"other": ("FP32", ("n", 4))},
    )


@pytest.mark.parametrize("make", [post_infer, post_infer_chunked], ids=["fast lane", "asgi"])
def test_a_body_that_arrives_during_a_swap_is_read_by_the_new_version(
    start: Callable[..., ServerProcess], folder: Path, make: Callable[[str, bytes], bytes]
) -> None:
    server = start()
    asked = make("adder", floats_json())
    with RawHttp(server.http) as connection:
        connection.send(asked[:-20])
        models.write_model(folder, "adder", renamed(), version=2)
        assert control(server, "load").status == 200
        connection.send(asked[-20:])
        refused = connection.receive()
        assert refused.status == 400
        assert "'x' is not an input" in refused.error


def test_many_swaps_leave_nothing_behind(start: Callable[..., ServerProcess], folder: Path) -> None:
    server = start()
    threads = _threads(server)
    with SteadyCaller(server, {1.0, 2.0}):
        for turn in range(20):
            models.write_model(folder, "adder", plus(2.0 - turn % 2), version=1)
            assert control(server, "load").status == 200
    assert _threads(server) <= threads + 4
    lanes = server.status()["lanes"]
    assert len([lane for lane in lanes if lane["model"] == "adder"]) == 1


def _threads(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def test_versions_side_by_side(start: Callable[..., ServerProcess], folder: Path) -> None:
    (folder / "adder" / "model.toml").write_text(ALL)
    server = start()
    models.write_model(folder, "adder", plus(2.0), version=2)
    assert control(server, "load").status == 200
    for version, number in (("1", 1.0), ("2", 2.0), ("", 2.0)):
        answer = ask_once(server.http, post_infer("adder", floats_json(), version=version))
        assert answer.json["outputs"][0]["data"][0] == number
    shutil.rmtree(folder / "adder" / "2")
    assert control(server, "load").status == 200
    assert first_number(server) == 1.0


def test_a_load_that_fails_keeps_the_old_version_and_says_why(
    start: Callable[..., ServerProcess], folder: Path
) -> None:
    server = start()
    whole = plus(2.0)
    (folder / "adder" / "2").mkdir()
    (folder / "adder" / "2" / "model.onnx").write_bytes(whole[: len(whole) // 2])
    refused = control(server, "load")
    assert refused.status == 400
    assert "adder/2" in refused.error
    assert first_number(server) == 1.0
    state, reason = index(server)["adder", "1"]
    assert state == "READY"
    assert "version 2 failed" in reason
    (folder / "adder" / "2" / "model.onnx").write_bytes(whole)
    assert control(server, "load").status == 200
    assert first_number(server) == 2.0


def test_an_unload_waits_for_those_inside(
    start: Callable[..., ServerProcess], folder: Path
) -> None:
    write_slow(folder, "slow")
    server = start()
    answers: list[int] = []

    def ask() -> None:
        answers.append(ask_once(server.http, post_infer("slow", floats_json(width=64))).status)

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(
        "it runs", lambda: server.metric("headrace_inflight_requests") == 1, within_s=WITHIN_S
    )
    unloaded = control(server, "unload", "slow")
    assert unloaded.status == 200
    asking.join(WITHIN_S)
    assert answers == [200]
    assert index(server)["slow", "1"] == ("UNAVAILABLE", "unloaded")
    gone = ask_once(server.http, post_infer("slow", floats_json(width=64)))
    assert gone.status == 503
    assert "unloaded" in gone.error
    assert ask_once(server.http, get("/v2/models/slow/ready")).status == 400
    assert control(server, "load", "slow").status == 200
    assert ask_once(server.http, post_infer("slow", floats_json(width=64))).status == 200


def test_what_is_asked_of_a_load_and_cannot_be(start: Callable[..., ServerProcess]) -> None:
    server = start()
    assert control(server, "load", "nobody").status == 404
    assert control(server, "unload", "nobody").status == 404
    for name in ("config", "file:1/model.onnx"):
        refused = control(server, "load", body=b'{"parameters": {"%b": "e30="}}' % name.encode())
        assert refused.status == 400
        assert "file-override" in refused.error
    assert control(server, "load", body=b"[]").status == 400
    assert control(server, "load", body=b"{").status == 400
    assert control(server, "load", body=b" " * 100_000).status == 400
    assert (
        control(server, "unload", body=b'{"parameters": {"unload_dependents": true}}').status == 200
    )
    assert control(server, "unload").status == 200, "what is not served need not go"


def test_polling_follows_the_folder(start: Callable[..., ServerProcess], folder: Path) -> None:
    server = start("poll")
    with SteadyCaller(server, {1.0, 2.0}):
        models.write_model(folder, "adder", plus(2.0), version=2)
        eventually("version 2 answers", lambda: first_number(server) == 2.0, within_s=WITHIN_S)
        models.write_model(folder, "other", plus(5.0))
        eventually(
            "a new model is served",
            lambda: index(server).get(("other", "1"), ("",))[0] == "READY",
            within_s=WITHIN_S,
        )
    shutil.rmtree(folder / "other")
    eventually(
        "a removed model goes", lambda: ("other", "1") not in index(server), within_s=WITHIN_S
    )
    assert first_number(server) == 2.0


def test_a_version_that_is_being_copied_is_not_half_read(
    start: Callable[..., ServerProcess], folder: Path
) -> None:
    server = start("poll")
    whole = plus(2.0)
    place = folder / "adder" / "2"
    place.mkdir()
    with (place / "model.onnx").open("wb") as file:
        for at in range(0, len(whole), 16):
            file.write(whole[at : at + 16])
            file.flush()
            assert first_number(server) == 1.0
    eventually(
        "the copy is complete, and served", lambda: first_number(server) == 2.0, within_s=WITHIN_S
    )


def test_a_folder_that_goes_away_takes_nothing_with_it(
    start: Callable[..., ServerProcess], folder: Path
) -> None:
    server = start("poll")
    away = folder.with_name("away")
    folder.rename(away)
    eventually("it is noticed", lambda: "cannot be read" in server.output, within_s=WITHIN_S)
    assert first_number(server) == 1.0
    away.rename(folder)
    models.write_model(folder, "adder", plus(2.0), version=2)
    eventually("polling goes on", lambda: first_number(server) == 2.0, within_s=WITHIN_S)


def test_tritons_config_is_read(start: Callable[..., ServerProcess], folder: Path) -> None:
    (folder / "adder" / "config.pbtxt").write_text(
        "max_batch_size: 16\ndynamic_batching { max_queue_delay_microseconds: 250 }\n"
        "optimization { graph { level: 1 } }\n"
    )
    server = start()
    config = ask_once(server.http, get("/v2/models/adder/config")).json
    assert config["max_batch_size"] == 16
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 250
    assert "optimization" in index(server)["adder", "1"][1]


@pytest.mark.parametrize("library", [tritonclient.http, tritonclient.grpc])
def test_tritons_clients(start: Callable[..., ServerProcess], folder: Path, library: Any) -> None:
    server = start()
    host, port = server.http if library is tritonclient.http else server.grpc
    with library.InferenceServerClient(f"{host}:{port}") as client:
        assert client.is_model_ready("adder")
        client.unload_model("adder")
        assert not client.is_model_ready("adder")
        models.write_model(folder, "adder", plus(2.0), version=2)
        client.load_model("adder")
        assert client.is_model_ready("adder", "2")
        found = client.get_model_repository_index()
        entries = (
            found
            if isinstance(found, list)
            else [
                {"name": one.name, "version": one.version, "state": one.state}
                for one in found.models
            ]
        )
        assert [one["state"] for one in entries if one["version"] == "2"] == ["READY"]
        with pytest.raises(InferenceServerException, match="nobody"):
            client.load_model("nobody")
        with pytest.raises(InferenceServerException, match="file-override"):
            client.load_model("adder", config='{"max_batch_size": 1}')
        assert first_number(server) == 2.0
        statistics = client.get_inference_statistics("adder")
        stats = (
            statistics["model_stats"]
            if isinstance(statistics, dict)
            else [
                {"version": one.version, "inference_count": one.inference_count}
                for one in statistics.model_stats
            ]
        )
        assert [(one["version"], int(one["inference_count"])) for one in stats][-1] == ("2", 1)
        with pytest.raises(InferenceServerException, match="nobody"):
            client.get_inference_statistics("nobody")
