"""The innocent neighbour: somebody who goes on asking, on both fronts, while others misbehave."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import numpy as np

from tests.support.raw_h2 import RawGrpc, infer_message
from tests.support.raw_http import RawHttp, floats_json, post_infer
from tests.support.server_process import ServerProcess

PAUSE_S = 0.01
ROW = np.arange(4, dtype=np.float32)


class Neighbour:
    """A context: one thread asks the model ``identity`` in turn over HTTP and gRPC.

    At its end every answer so far must have been right and quick, and a newcomer on fresh connections is served.
    """

    def __init__(self, server: ServerProcess, *, slowest_s: float = 2.0) -> None:
        self._server = server
        self._allowed_s = slowest_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="neighbour", daemon=True)
        self._failure: BaseException | None = None
        self.answers = 0
        self.slowest_s = 0.0

    def _run(self) -> None:
        try:
            with RawHttp(self._server.http) as http, RawGrpc(self._server.grpc) as grpc:
                while not self._stop.wait(PAUSE_S):
                    self._ask(http, grpc)
        except BaseException as error:  # noqa: BLE001  # told by the test's own thread
            self._failure = error

    def _ask(self, http: RawHttp, grpc: RawGrpc) -> None:
        for ask in (ask_http, ask_grpc):
            began_s = time.monotonic()
            ask(http if ask is ask_http else grpc)  # type: ignore[arg-type]
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            self.answers += 1

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(15)
        if error is not None:
            return
        assert not self._thread.is_alive(), "the neighbour waits for an answer for ever"
        if self._failure is not None:
            raise AssertionError("the neighbour was not served") from self._failure
        assert self.slowest_s < self._allowed_s, f"the neighbour waited {self.slowest_s:.2f} s"
        with RawHttp(self._server.http) as http, RawGrpc(self._server.grpc) as grpc:
            ask_http(http)
            ask_grpc(grpc)


def ask_http(connection: RawHttp) -> None:
    """A right answer over HTTP, or an assertion."""
    response = connection.ask(post_infer("identity", floats_json()))
    assert response.status == 200, response
    assert response.json["outputs"][0]["data"] == ROW.tolist(), response


def ask_grpc(connection: RawGrpc) -> None:
    """A right answer over gRPC, or an assertion."""
    outcome = connection.ask(infer_message("identity", ROW.tobytes(), [1, 4]))
    assert outcome.reply.raw_output_contents[0] == ROW.tobytes(), outcome
