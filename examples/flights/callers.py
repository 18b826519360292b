"""Three ways to ask the gateway: JSON by hand, and ``tritonclient`` over HTTP and over gRPC.

Decides how flights become a request of the Open Inference Protocol and an answer becomes probabilities. What is sent
are keys and what only the caller knows; the gateway looks up the rest. It must never retry and never wait longer than
its limit: what is slow or wrong has to be seen.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import tritonclient.grpc
import tritonclient.http

from examples.flights.bundle import MODEL_NAME
from examples.flights.inputs import Rows
from examples.flights.onnx_export import OUTPUT

PATH = f"/v2/models/{MODEL_NAME}/infer"
LIMIT_S = 10.0
TEXT_KEYS = ("carrier", "origin", "dest", "tailnum")
NUMBER_KEYS = ("flight",)
MOMENTS = ("scheduled_at",)
MEASURES = ("minute_of_day", "day_of_week", "distance_miles")
"""What a caller sends for each flight: BYTES, INT64, INT64 (µs since 1970) and FP32, each [N, 1]."""

_DATATYPES = {"O": "BYTES", "i": "INT64", "f": "FP32"}

Asked = Mapping[str, npt.NDArray[Any]]
"""The tensors of a request by name, each [N, 1]."""


class UnexpectedAnswerError(Exception):
    """The gateway answered something else than probabilities."""


@dataclass(frozen=True)
class Told:
    """An answer with what became of the features: chances float32 [N], the report as the gateway wrote it."""

    chances: Rows
    report: dict[str, Any]


class Caller(Protocol):
    """A front of the gateway, seen from a client: flights in, float32 [N] out."""

    name: str

    def ask(self, asked: Asked) -> Rows: ...

    def close(self) -> None: ...


class RestByHand:
    """The protocol as text: JSON there, JSON back, nothing but the standard library."""

    name = "REST, JSON by http.client"

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=LIMIT_S)

    def ask(self, asked: Asked) -> Rows:
        return _chances(self.answer(PATH, request_text(asked)))

    def ask_with_status(self, asked: Asked) -> Told:
        """Ask what became of each feature, too."""
        answer = self.answer(PATH, request_text(asked, feature_status=True))
        try:
            report = json.loads(answer["parameters"]["feature_status"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswerError(f"no feature_status: {str(answer)[:500]}") from error
        return Told(_chances(answer), report)

    def answer(self, path: str, text: str) -> dict[str, Any]:
        """The JSON of a good answer. Raises ``UnexpectedAnswerError``."""
        status, said = self.post(path, text)
        if status != http.client.OK:
            raise UnexpectedAnswerError(f"HTTP {status}: {said[:500]}")
        try:
            answer: dict[str, Any] = json.loads(said)
        except ValueError as error:
            raise UnexpectedAnswerError(f"no JSON: {said[:500]}") from error
        return answer

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

    def ask(self, asked: Asked) -> Rows:
        answer = self._client.infer(MODEL_NAME, tensors_of(tritonclient.http, asked))
        return _column(answer.as_numpy(OUTPUT))

    def close(self) -> None:
        self._client.close()


class TritonGrpc:
    """gRPC, every call with a deadline."""

    name = "gRPC by tritonclient"

    def __init__(self, address: str) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(address)

    def ask(self, asked: Asked, model: str = MODEL_NAME, version: str = "") -> Rows:
        """Without a version, whichever the gateway takes for the newest."""
        tensors = tensors_of(tritonclient.grpc, asked)
        answer = self._client.infer(model, tensors, version, client_timeout=LIMIT_S)
        return _column(answer.as_numpy(OUTPUT))

    def close(self) -> None:
        self._client.close()


def asked_of(flights: pd.DataFrame) -> Asked:
    """The request about every row of ``flights``, which has all the columns above."""
    texts = {
        name: np.array([one.encode() for one in flights[name]], np.object_) for name in TEXT_KEYS
    }
    moments = {
        name: flights[name].dt.tz_convert(None).to_numpy("datetime64[us]").astype(np.int64)
        for name in MOMENTS
    }
    numbers = {name: flights[name].to_numpy(np.int64) for name in NUMBER_KEYS}
    measures = {name: flights[name].to_numpy(np.float32) for name in MEASURES}
    return {
        name: values[:, None] for name, values in (texts | numbers | moments | measures).items()
    }


def some_of(asked: Asked, where: Any) -> Asked:
    """The request about some of the rows: places [M] or a slice."""
    return {name: values[where] for name, values in asked.items()}


def request_text(asked: Asked, *, feature_status: bool = False) -> str:
    """The JSON of an inference request."""
    inputs = [
        {
            "name": name,
            "datatype": _datatype(values),
            "shape": list(values.shape),
            "data": [
                one.decode() if isinstance(one, bytes) else one for one in values.ravel().tolist()
            ],
        }
        for name, values in asked.items()
    ]
    told = {"parameters": {"feature_status": True}} if feature_status else {}
    return json.dumps({"inputs": inputs, **told})


def tensors_of(library: Any, asked: Asked) -> list[Any]:
    """The inputs of a request as ``tritonclient.http`` or ``tritonclient.grpc`` takes them."""
    tensors = []
    for name, values in asked.items():
        tensor = library.InferInput(name, list(values.shape), _datatype(values))
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    return tensors


def _datatype(values: npt.NDArray[Any]) -> str:
    return _DATATYPES[values.dtype.kind]


def _chances(answer: Mapping[str, Any]) -> Rows:
    try:
        (output,) = answer["outputs"]
        return np.array(output["data"], dtype=np.float32).reshape(output["shape"])[:, 0]
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswerError(f"no probabilities: {str(answer)[:500]}") from error


def _column(answer: Any) -> Rows:
    if answer is None:
        raise UnexpectedAnswerError(f"the answer has no output {OUTPUT!r}")
    return np.asarray(answer, dtype=np.float32)[:, 0]
