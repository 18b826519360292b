"""Triton's generated messages and ours live side by side in one process, and mean the same bytes."""

from __future__ import annotations

import numpy as np
from tritonclient.grpc import service_pb2

from protos import inference
from tests.support.raw_h2 import RawGrpc, infer_message
from tests.support.server_process import ServerProcess

ROW = np.arange(4, dtype=np.float32)


def test_two_classes_one_wire() -> None:
    ours = infer_message("identity_fp32", ROW.tobytes(), [1, 4], request_id="7", timeout_us=10**9)
    theirs = service_pb2.ModelInferRequest.FromString(ours)
    assert type(theirs) is not inference.ModelInferRequest
    assert theirs.SerializeToString(deterministic=True) == inference.ModelInferRequest.FromString(
        ours
    ).SerializeToString(deterministic=True)
    assert theirs.id == "7"
    assert theirs.parameters["timeout"].int64_param == 10**9


def test_triton_reads_what_we_answer(grpc_server: ServerProcess) -> None:
    with RawGrpc(grpc_server.grpc) as connection:
        body = connection.ask(infer_message("identity_fp32", ROW.tobytes(), [1, 4])).body[5:]
    theirs = service_pb2.ModelInferResponse.FromString(body)
    assert theirs.outputs[0].name == "y"
    assert theirs.raw_output_contents[0] == ROW.tobytes()
    assert theirs.SerializeToString() == body
