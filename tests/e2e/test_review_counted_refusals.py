"""A call that is refused while its message arrives is counted like any other."""

from __future__ import annotations

from tests.e2e.conftest import StartServer
from tests.support.raw_h2 import RESOURCE_EXHAUSTED, RawGrpc


def test_an_oversized_grpc_message_is_counted(start_server: StartServer) -> None:
    server = start_server(grpc__max_message_bytes=1024)
    with RawGrpc(server.grpc) as connection:
        assert connection.ask(bytes(2000)).status == RESOURCE_EXHAUSTED
        assert connection.ask(bytes(2000), path="/inference.GRPCInferenceService/ModelReady")
    counted = server.metric("headrace_infer_calls_total", protocol="grpc")
    assert counted == server.metric("headrace_infer_calls_total", outcome="too_large") == 1
