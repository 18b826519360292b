"""One way of asking for all of Triton's Python clients: http, http.aio, grpc and grpc.aio.

A ``Caller`` says what it wants in our words, so that one suite runs over every client and, for HTTP, over both ways
through the server: a compressed request is as legal as a plain one, but takes the ASGI route.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests.support.server_process import ServerProcess

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]


class Given(NamedTuple):
    """One input. ``binary`` counts over HTTP only; gRPC clients always send raw bytes."""

    name: str
    datatype: str
    array: Array
    binary: bool = True
    torn_bytes: int = 0
    """Bytes missing at the end, which no client would do by itself."""


class Wanted(NamedTuple):
    """One output that is asked for by name."""

    name: str
    binary: bool = True


class Ask(NamedTuple):
    """An infer call, independent of the client."""

    model: str
    inputs: Sequence[Given]
    outputs: Sequence[Wanted] | None = None
    request_id: str = ""
    version: str = ""
    priority: int = 0
    timeout_us: int | None = None
    answer_compression: str | None = None
    """HTTP only."""
    parameters: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    """Metadata over gRPC."""


class Answer(NamedTuple):
    """What came back; outputs in the order of the reply."""

    model: str
    version: str
    request_id: str
    outputs: dict[str, Array]
    parameters: dict[str, Any]


class CallError(Exception):
    """The client's own exception: ``status`` is "404" over HTTP and "NOT_FOUND" over gRPC."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Caller(ABC):
    """One client. ``path`` is where its infer calls must go inside the server, "" for gRPC."""

    path = ""

    def __init__(self) -> None:
        self.infer_calls = 0

    @property
    def is_http(self) -> bool:
        """Whether this is one of the HTTP clients."""
        return bool(self.path)

    def ask(self, ask: Ask) -> Answer:
        """An infer call; raises ``CallError``."""
        self.infer_calls += 1
        try:
            return self._ask(ask)
        except InferenceServerException as error:
            raise _failure(error) from None

    def query(self, method: str, *arguments: Any) -> Any:
        """Any other method of the client; messages come as dictionaries. Raises ``CallError``."""
        try:
            return self._query(method, *arguments)
        except InferenceServerException as error:
            raise _failure(error) from None

    @abstractmethod
    def _ask(self, ask: Ask) -> Answer: ...
    @abstractmethod
    def _query(self, method: str, *arguments: Any) -> Any: ...
    @abstractmethod
    def close(self) -> None:
        """Close the client's connections."""


def _failure(error: Any) -> CallError:
    return CallError(str(error.status()).removeprefix("StatusCode."), str(error.message()))


def _inputs(client: ModuleType, ask: Ask, *, is_http: bool) -> list[Any]:
    made = []
    for given in ask.inputs:
        one = client.InferInput(given.name, list(given.array.shape), given.datatype)
        if is_http:
            one.set_data_from_numpy(given.array, binary_data=given.binary)
        else:
            one.set_data_from_numpy(given.array)
        if given.torn_bytes:
            _tear(one, given.torn_bytes)
        made.append(one)
    return made


def _tear(one: Any, size: int) -> None:
    if hasattr(one, "_raw_content"):  # gRPC
        one._raw_content = one._raw_content[:-size]
    else:
        one._raw_data = one._raw_data[:-size]
        one._parameters["binary_data_size"] -= size


def _outputs(client: ModuleType, ask: Ask, *, is_http: bool) -> list[Any] | None:
    if ask.outputs is None:
        return None
    if is_http:
        make = client.InferRequestedOutput
        return [make(one.name, binary_data=one.binary) for one in ask.outputs]
    return [client.InferRequestedOutput(one.name) for one in ask.outputs]


def _options(ask: Ask) -> dict[str, Any]:
    options: dict[str, Any] = {
        "model_version": ask.version,
        "request_id": ask.request_id,
        "priority": ask.priority,
    }
    if ask.timeout_us is not None:
        options["timeout"] = ask.timeout_us
    if ask.parameters is not None:
        options["parameters"] = dict(ask.parameters)
    if ask.headers is not None:
        options["headers"] = dict(ask.headers)
    return options


class HttpCaller(Caller):
    """``tritonclient.http``, plain or with compressed requests."""

    def __init__(self, server: ServerProcess, compression: str | None) -> None:
        super().__init__()
        self.path = "asgi" if compression else "fast_lane"
        self._compression = compression
        self._client = tritonclient.http.InferenceServerClient(_url(server.http))

    def _ask(self, ask: Ask) -> Answer:
        return _http_answer(self._client.infer(**_http_call(ask, self._compression)))

    def _query(self, method: str, *arguments: Any) -> Any:
        return getattr(self._client, method)(*arguments)

    def close(self) -> None:
        self._client.close()


class HttpAioCaller(Caller):
    """``tritonclient.http.aio``, plain or with compressed requests."""

    def __init__(self, server: ServerProcess, compression: str | None) -> None:
        super().__init__()
        self.path = "asgi" if compression else "fast_lane"
        self._compression = compression
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._connect(_url(server.http)))

    @staticmethod
    async def _connect(url: str) -> Any:
        return tritonclient.http.aio.InferenceServerClient(url)

    def _ask(self, ask: Ask) -> Answer:
        call = _http_call(ask, self._compression)
        return _http_answer(self._runner.run(self._client.infer(**call)))

    def _query(self, method: str, *arguments: Any) -> Any:
        return self._runner.run(getattr(self._client, method)(*arguments))

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


def _http_call(ask: Ask, compression: str | None) -> dict[str, Any]:
    return {
        "model_name": ask.model,
        "inputs": _inputs(tritonclient.http, ask, is_http=True),
        "outputs": _outputs(tritonclient.http, ask, is_http=True),
        "request_compression_algorithm": compression,
        "response_compression_algorithm": ask.answer_compression,
        **_options(ask),
    }


def _http_answer(result: Any) -> Answer:
    reply = result.get_response()
    outputs = {one["name"]: result.as_numpy(one["name"]) for one in reply["outputs"]}
    names = reply["model_name"], reply["model_version"], reply.get("id", "")
    return Answer(*names, outputs, reply.get("parameters", {}))


class GrpcCaller(Caller):
    """``tritonclient.grpc``."""

    def __init__(self, server: ServerProcess, compression: str | None) -> None:
        super().__init__()
        self._compression = compression
        self._client = tritonclient.grpc.InferenceServerClient(_url(server.grpc))

    def _ask(self, ask: Ask) -> Answer:
        return _grpc_answer(self._client.infer(**_grpc_call(ask, self._compression)))

    def _query(self, method: str, *arguments: Any) -> Any:
        return getattr(self._client, method)(*arguments, **_as_json(method))

    def close(self) -> None:
        self._client.close()


class GrpcAioCaller(Caller):
    """``tritonclient.grpc.aio``."""

    def __init__(self, server: ServerProcess, compression: str | None) -> None:
        super().__init__()
        self._compression = compression
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._connect(_url(server.grpc)))

    @staticmethod
    async def _connect(url: str) -> Any:
        return tritonclient.grpc.aio.InferenceServerClient(url)

    def _ask(self, ask: Ask) -> Answer:
        call = _grpc_call(ask, self._compression)
        return _grpc_answer(self._runner.run(self._client.infer(**call)))

    def _query(self, method: str, *arguments: Any) -> Any:
        call = getattr(self._client, method)(*arguments, **_as_json(method))
        return self._runner.run(call)

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


def _as_json(method: str) -> dict[str, Any]:
    return {"as_json": True} if method.startswith("get_") else {}


def _grpc_call(ask: Ask, compression: str | None) -> dict[str, Any]:
    return {
        "model_name": ask.model,
        "inputs": _inputs(tritonclient.grpc, ask, is_http=False),
        "outputs": _outputs(tritonclient.grpc, ask, is_http=False),
        "compression_algorithm": compression,
        "client_timeout": 30.0,
        **_options(ask),
    }


def _grpc_answer(result: Any) -> Answer:
    reply = result.get_response()
    outputs = {one.name: result.as_numpy(one.name) for one in reply.outputs}
    parameters = {
        name: getattr(one, one.WhichOneof("parameter_choice"))
        for name, one in reply.parameters.items()
    }
    return Answer(reply.model_name, reply.model_version, reply.id, outputs, parameters)


def _url(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


WAYS = {
    "http-lane": (HttpCaller, None),
    "http-gzip": (HttpCaller, "gzip"),
    "http.aio-lane": (HttpAioCaller, None),
    "http.aio-deflate": (HttpAioCaller, "deflate"),
    "grpc": (GrpcCaller, None),
    "grpc-gzip": (GrpcCaller, "gzip"),
    "grpc.aio": (GrpcAioCaller, None),
    "reference-grpc": (GrpcCaller, None),
    "reference-grpc-gzip": (GrpcCaller, "gzip"),
    "reference-grpc.aio": (GrpcAioCaller, None),
}
"""Every way in that the contract suites take: the client, and how its requests are compressed."""
REFERENCE = "reference-"
"""Ways that begin so are for a server whose gRPC front is grpcio's."""


def make_caller(way: str, server: ServerProcess) -> Caller:
    """A client for one of ``WAYS``."""
    make, compression = WAYS[way]
    return make(server, compression)
