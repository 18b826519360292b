"""Three ways to ask the gateway: JSON by hand, and ``tritonclient`` over HTTP and over gRPC.

Decides how rows become a request of the Open Inference Protocol and an answer becomes
probabilities. It must never retry and never wait longer than its limit: what is slow or wrong has
to be seen.
"""

from __future__ import annotations

import http.client
import json
from typing import Any, Protocol

import numpy as np
import tritonclient.grpc
import tritonclient.http

from examples.flights.bundle import MODEL_NAME
from examples.flights.features import Rows
from examples.flights.onnx_export import INPUT, OUTPUT

PATH = f"/v2/models/{MODEL_NAME}/infer"
FIRST_VERSION_PATH = f"/v2/models/{MODEL_NAME}/versions/1/infer"
LIMIT_S = 10.0
_DATATYPE = "FP32"


class UnexpectedAnswerError(Exception):
    """The gateway answered something else than probabilities."""


class Caller(Protocol):
    """A front of the gateway, seen from a client: rows float32 [N, F] in, float32 [N] out."""

    name: str

    def ask(self, rows: Rows) -> Rows: ...

    def close(self) -> None: ...


class RestByHand:
    """The protocol as text: JSON there, JSON back, nothing but the standard library."""

    name = "REST, JSON by http.client"

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=LIMIT_S)

    def ask(self, rows: Rows) -> Rows:
        status, text = self.post(PATH, request_text(rows))
        if status != http.client.OK:
            raise UnexpectedAnswerError(f"HTTP {status}: {text[:500]}")
        try:
            (output,) = json.loads(text)["outputs"]
            return np.array(output["data"], dtype=np.float32).reshape(output["shape"])[:, 0]
        except (KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswerError(f"no probabilities: {text[:500]}") from error

    def post(self, path: str, text: str) -> tuple[int, str]:
        """Status and body of the answer to a JSON text."""
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, text.encode(), headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()

    def close(self) -> None:
        self._connection.close()


class TritonRest:
    """HTTP with the tensors as plain bytes behind a small JSON head."""

    name = "REST, binary by tritonclient"

    def __init__(self, address: str) -> None:
        self._client = tritonclient.http.InferenceServerClient(
            address, connection_timeout=LIMIT_S, network_timeout=LIMIT_S
        )

    def ask(self, rows: Rows) -> Rows:
        answer = self._client.infer(MODEL_NAME, [_tensor(tritonclient.http, rows)])
        return _column(answer.as_numpy(OUTPUT))

    def close(self) -> None:
        self._client.close()


class TritonGrpc:
    """gRPC, every call with a deadline."""

    name = "gRPC by tritonclient"

    def __init__(self, address: str) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(address)

    def ask(self, rows: Rows, model: str = MODEL_NAME, version: str = "") -> Rows:
        """Without a version, whichever the gateway takes for the newest."""
        tensor = _tensor(tritonclient.grpc, rows)
        answer = self._client.infer(model, [tensor], version, client_timeout=LIMIT_S)
        return _column(answer.as_numpy(OUTPUT))

    def close(self) -> None:
        self._client.close()


def request_text(rows: Rows) -> str:
    """The JSON of an inference request for ``rows``, float32 [N, F]."""
    tensor = {
        "name": INPUT,
        "datatype": _DATATYPE,
        "shape": list(rows.shape),
        "data": rows.ravel().tolist(),
    }
    return json.dumps({"inputs": [tensor]})


def _tensor(library: Any, rows: Rows) -> Any:
    tensor = library.InferInput(INPUT, list(rows.shape), _DATATYPE)
    tensor.set_data_from_numpy(rows)
    return tensor


def _column(answer: Any) -> Rows:
    if answer is None:
        raise UnexpectedAnswerError(f"the answer has no output {OUTPUT!r}")
    return np.asarray(answer, dtype=np.float32)[:, 0]
