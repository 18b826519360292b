"""Several workers as one instance: one answer, no lost caller when one dies, and a clean end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartServer
from tests.support.raw_http import (
    ClosedError,
    RawHttp,
    ask_once,
    floats_json,
    get,
    post_infer,
    request,
)
from tests.support.served_models import (
    SLOW_WIDTH,
    SNAIL_TURNS,
    write_slow,
    write_stress_models,
)
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually

WITHIN_S = 30.0
GOOD = post_infer("identity", floats_json())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_stress_models(tmp_path)
    return tmp_path


@pytest.fixture
def pair(folder: Path, start_server: StartServer) -> Iterator[ServerProcess]:
    server = start_server(
        folder,
        server__workers=2,
        repository__control="explicit",
        repository__startup_models="identity",
    )
    yield server
    server.stop()


def workers(server: ServerProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.status()["workers"]
    return found


def all_serve(server: ServerProcess) -> bool:
    return all(one["serving"] for one in workers(server))


def kill_one(server: ServerProcess, seat: int = 0) -> None:
    os.kill(workers(server)[seat]["pid"], signal.SIGKILL)


class Callers:
    """Threads that ask in turn, each time on a new connection or on one that they keep."""

    def __init__(self, server: ServerProcess, *, keep: bool, threads: int = 4) -> None:
        self.answers = 0
        self.lost = 0
        self.failures: list[str] = []
        self._server = server
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(keep,), daemon=True) for _ in range(threads)
        ]

    def _run(self, keep: bool) -> None:
        connection: RawHttp | None = None
        try:
            while not self._stop.wait(0.001):
                connection = connection or RawHttp(self._server.http)
                try:
                    response = connection.ask(GOOD)
                except (ClosedError, ConnectionError):
                    self.lost += 1  # it was in the worker that died
                    connection.close()
                    connection = None
                    continue
                if response.status != 200:
                    self.failures.append(str(response))
                self.answers += 1
                if response.closes or not keep:
                    connection.close()
                    connection = None
        except Exception as error:  # noqa: BLE001  told by the test's own thread
            self.failures.append(repr(error))
        finally:
            if connection is not None:
                connection.close()

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WITHIN_S)
        assert not any(thread.is_alive() for thread in self._threads)


def control(server: ServerProcess, verb: str, model: str = "identity") -> Any:
    return ask_once(server.http, request("POST", f"/v2/repository/models/{model}/{verb}", [], b""))


def ready_models(server: ServerProcess) -> set[str]:
    index = ask_once(server.http, request("POST", "/v2/repository/index", [], b'{"ready": true}'))
    return {one["name"] for one in index.json}


def test_the_kernel_deals_connections_out_among_the_workers(pair: ServerProcess) -> None:
    for _ in range(100):
        assert ask_once(pair.http, GOOD).status == 200
    shares = [one["infer_calls"]["http ok"] for one in workers(pair)]
    assert sum(shares) == 100
    assert min(shares) >= 10, shares
    assert pair.metric("headrace_infer_calls_total", outcome="ok") == 100
    assert pair.metric("headrace_workers") == 2


def test_a_worker_that_dies_costs_only_what_it_was_answering(pair: ServerProcess) -> None:
    with Callers(pair, keep=False) as callers:
        eventually("calls are answered", lambda: callers.answers > 100, within_s=WITHIN_S)
        before = callers.lost
        kill_one(pair)
        seen = callers.answers
        eventually("calls go on", lambda: callers.answers > seen + 100, within_s=WITHIN_S)
        eventually("the worker is back", lambda: all_serve(pair), within_s=WITHIN_S)
        seen = callers.answers
        eventually("calls go on", lambda: callers.answers > seen + 100, within_s=WITHIN_S)
    assert not callers.failures, callers.failures[:3]
    assert callers.lost - before <= 4, "each caller has at most one call in flight"
    assert pair.metric("headrace_worker_restarts_total") == 1


def test_counters_survive_their_worker(pair: ServerProcess) -> None:
    for _ in range(40):
        assert ask_once(pair.http, GOOD).status == 200
    assert (
        pair.metric("headrace_infer_calls_total", outcome="ok") == 40
    )  # now everybody has reported
    kill_one(pair)
    eventually(
        "the worker is back",
        lambda: workers(pair)[0]["restarts"] == 1 and all_serve(pair),
        within_s=WITHIN_S,
    )
    assert pair.metric("headrace_infer_calls_total", outcome="ok") == 40


def test_a_control_call_answers_for_every_worker(pair: ServerProcess) -> None:
    assert ready_models(pair) == {"identity"}
    assert control(pair, "load", "slow").status == 200
    for _ in range(20):  # whichever worker is asked
        assert ready_models(pair) == {"identity", "slow"}
        assert ask_once(pair.http, get("/v2/models/slow/ready")).status == 200
    assert control(pair, "unload", "slow").status == 200
    for _ in range(20):
        assert ready_models(pair) == {"identity"}
        assert ask_once(pair.http, get("/v2/models/slow/ready")).status == 400


def test_a_restarted_worker_catches_up_before_it_is_asked(
    pair: ServerProcess, folder: Path
) -> None:
    assert control(pair, "load", "slow").status == 200
    assert control(pair, "unload", "identity").status == 200
    shutil.copytree(folder / "slow" / "1", folder / "slow" / "2")  # nobody has asked for it
    kill_one(pair, 0)
    eventually(
        "one is back",
        lambda: workers(pair)[0]["restarts"] == 1 and all_serve(pair),
        within_s=WITHIN_S,
    )
    kill_one(pair, 1)
    eventually(
        "the other is back",
        lambda: workers(pair)[1]["restarts"] == 1 and all_serve(pair),
        within_s=WITHIN_S,
    )
    for one in workers(pair):
        ready = {(m["name"], m["version"]) for m in one["models"] if m["state"] == "READY"}
        assert ready == {("slow", "1")}


def test_a_load_that_fails_changes_nothing_anywhere(pair: ServerProcess, folder: Path) -> None:
    (folder / "identity" / "2").mkdir()
    (folder / "identity" / "2" / "model.onnx").write_bytes(b"no model")
    refused = control(pair, "load")
    assert refused.status == 400
    assert "identity/2" in refused.error
    for _ in range(20):
        answer = ask_once(pair.http, GOOD)
        assert answer.status == 200
        assert answer.json["model_version"] == "1"


def test_statistics_are_those_of_all_workers(pair: ServerProcess) -> None:
    for _ in range(30):
        assert ask_once(pair.http, GOOD).status == 200
    for _ in range(5):
        [found] = ask_once(pair.http, get("/v2/models/identity/stats")).json["model_stats"]
        assert found["inference_stats"]["success"]["count"] == 30
        assert found["inference_count"] == 30


def test_a_second_instance_on_the_port_fails_loudly(pair: ServerProcess, folder: Path) -> None:
    second = ServerProcess(
        folder,
        {"server.workers": 2},
        ("--http-port", str(pair.http[1]), "--grpc-port", "0", "--admin-port", "0"),
    ).launch()
    assert second.wait(WITHIN_S) == 2
    assert f"port {pair.http[1]} on 127.0.0.1 is taken" in second.output
    assert "--http-port" in second.output
    second.forget()
    assert ask_once(pair.http, GOOD).status == 200


def test_terminating_one_worker_only_replaces_it(pair: ServerProcess) -> None:
    with Callers(pair, keep=False) as callers:
        eventually("calls are answered", lambda: callers.answers > 50, within_s=WITHIN_S)
        os.kill(workers(pair)[1]["pid"], signal.SIGTERM)
        eventually(
            "it is replaced",
            lambda: workers(pair)[1]["restarts"] == 1 and all_serve(pair),
            within_s=WITHIN_S,
        )
    assert not callers.failures, callers.failures[:3]
    assert callers.lost == 0


def test_a_stop_under_load_loses_no_call(pair: ServerProcess) -> None:
    with Callers(pair, keep=True) as callers:
        eventually("calls are answered", lambda: callers.answers > 100, within_s=WITHIN_S)
        pair.terminate()
        assert pair.wait() == 0
    assert callers.lost == 0
    assert all("ConnectionRefused" in one for one in callers.failures), callers.failures[:3]
    assert "stopped\n" in pair.output
    pair.forget()


def test_workers_end_with_their_supervisor(pair: ServerProcess) -> None:
    pids = [one["pid"] for one in workers(pair)]
    pair.process.kill()
    pair.process.wait()
    eventually(
        "the workers are gone", lambda: not any(_runs(pid) for pid in pids), within_s=WITHIN_S
    )
    pair.forget()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_hangs_is_no_reason_to_hang(pair: ServerProcess) -> None:
    pid = workers(pair)[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert json.loads(pair.get_admin("/v2/health/ready"))["ready"]
        assert ["lanes" in one for one in workers(pair)] == [False, True]
        assert pair.metric("headrace_workers") == 2
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(
        "both answer", lambda: all("lanes" in one for one in workers(pair)), within_s=WITHIN_S
    )


def test_the_instance_survives_the_death_of_all(pair: ServerProcess) -> None:
    before = pair.status()["addresses"]
    for seat in (0, 1):
        kill_one(pair, seat)
    eventually(
        "both are back",
        lambda: all_serve(pair) and all(one["restarts"] == 1 for one in workers(pair)),
        within_s=WITHIN_S,
    )
    for _ in range(20):
        assert ask_once(pair.http, GOOD).status == 200
    assert pair.status()["addresses"] == before


def test_a_stop_does_not_wait_for_a_worker_that_may_not_start_yet(pair: ServerProcess) -> None:
    for deaths in range(1, 4):
        eventually("it serves", lambda: workers(pair)[0]["serving"], within_s=WITHIN_S)
        kill_one(pair)
        eventually("it is missed", partial(_has_died, pair, deaths), within_s=WITHIN_S)
    pair.terminate()
    assert pair.wait() == 0
    assert "stopped\n" in pair.output, "nothing was cut off"
    pair.forget()


def _has_died(server: ServerProcess, times: int) -> bool:
    return bool(workers(server)[0]["restarts"] == times)


@pytest.mark.parametrize("pause_s", [0.0, 0.005, 0.02, 0.05])  # between the signals
def test_whoever_terminates_all_processes_loses_no_call(
    pair: ServerProcess, pause_s: float
) -> None:
    with Callers(pair, keep=False) as callers:
        eventually("calls are answered", lambda: callers.answers > 100, within_s=WITHIN_S)
        for pid in [*(one["pid"] for one in workers(pair)), pair.process.pid]:
            os.kill(pid, signal.SIGTERM)
            time.sleep(pause_s)
        assert pair.wait() == 0
    assert callers.lost == 0
    assert all("ConnectionRefused" in one for one in callers.failures), callers.failures[:3]
    pair.forget()


def test_a_worker_that_leaves_slowly_keeps_nobody_waiting(
    folder: Path, start_server: StartServer
) -> None:
    write_slow(folder, "snail", turns=SNAIL_TURNS)
    server = start_server(folder, server__workers=2)
    with ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(RawHttp(server.http)).send(
                post_infer("snail", floats_json(width=SLOW_WIDTH))
            )
        eventually(
            "they are inside",
            lambda: server.metric("headrace_inflight_requests") == 4,
            within_s=WITHIN_S,
        )
        leaving = max(workers(server), key=lambda one: one["admission"]["requests_inside"])
        os.kill(leaving["pid"], signal.SIGTERM)
        eventually(
            "its callers are handed on",
            lambda: (
                ask_once(server.http, GOOD).status == 200
                and server.metric("headrace_connections_handed_on_total") > 0
            ),
            within_s=WITHIN_S,
        )
