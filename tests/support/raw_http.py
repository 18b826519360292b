"""HTTP/1.1 on a plain socket: what is sent is exactly what the test wrote, and answers are read strictly."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from tests.support.dialing import Target, dial
from tests.support.server_process import Address

TIMEOUT_S = 10.0
Fields = Sequence[tuple[str, str]]


class ClosedError(Exception):
    """The server closed the connection; ``args[0]`` holds the bytes that came before."""


class Response(NamedTuple):
    """One answer, as it stood on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of ``{"error": …}``; fails for any other body."""
        assert self.headers["content-type"] == "application/json", self
        document = self.json
        assert list(document) == ["error"], self
        assert isinstance(document["error"], str), self
        assert document["error"], self
        return document["error"]

    @property
    def closes(self) -> bool:
        """Whether the server said that it closes."""
        return self.headers.get("connection", "") == "close"


class RawHttp:
    """One connection."""

    def __init__(
        self, target: Target, timeout_s: float = TIMEOUT_S, tls: ssl.SSLContext | None = None
    ) -> None:
        self.socket = dial(target, timeout_s=timeout_s, tls=tls)
        self._received = b""

    def send(self, data: bytes) -> None:
        """Write all of it."""
        self.socket.sendall(data)

    def receive(self, *, to_head: bool = False) -> Response:
        """The next answer; ``to_head`` when it answers HEAD. Raises ``ClosedError`` when the server has gone."""
        while b"\r\n\r\n" not in self._received:
            self._read_more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1", status_line
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} twice in {lines}"
            headers[name.lower()] = value
        if int(status) < 200:
            return Response(int(status), headers, b"")
        assert "content-length" in headers, f"{status_line}: {headers}"
        length = 0 if to_head else int(headers["content-length"])
        while len(self._received) < length:
            self._read_more()
        body, self._received = self._received[:length], self._received[length:]
        return Response(int(status), headers, body)

    def _read_more(self) -> None:
        try:
            data = self.socket.recv(1024 * 1024)
        except ConnectionError:
            data = b""
        if not data:
            raise ClosedError(self._received)
        self._received += data

    def ask(self, request: bytes) -> Response:
        """Send a whole request and read its answer."""
        self.send(request)
        return self.receive()

    def expect_close(self) -> bytes:
        """Wait for the server to close; what came before. A timeout is a failure."""
        try:
            while True:
                self._read_more()
        except ClosedError as closed:
            rest = closed.args[0]
            assert isinstance(rest, bytes)
            return rest

    def reset(self) -> None:
        """Cut the connection with RST, as a process that dies does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Close as usual."""
        self.socket.close()

    def __enter__(self) -> RawHttp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def ask_once(address: Address, request: bytes) -> Response:
    """One request on a connection of its own."""
    with RawHttp(address) as connection:
        return connection.ask(request)


# ---- requests --------------------------------------------------------------------------------------


def request(method: str, path: str, headers: Fields = (), body: bytes | None = None) -> bytes:
    """A request; with a body it has a Content-Length, unless the headers say otherwise."""
    lines = [f"{method} {path} HTTP/1.1", "host: test"]
    lines += [f"{name}: {value}" for name, value in headers]
    named = {name.lower() for name, _ in headers}
    if body is not None and not named & {"content-length", "transfer-encoding"}:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def get(path: str) -> bytes:
    """A GET."""
    return request("GET", path)


def post_infer(model: str, body: bytes, headers: Fields = (), *, version: str = "") -> bytes:
    """An infer request that the fast lane takes."""
    return request("POST", infer_path(model, version), headers, body)


def post_infer_chunked(
    model: str, body: bytes, headers: Fields = (), *, version: str = ""
) -> bytes:
    """The same request with a chunked body, which takes the ASGI route."""
    fields = [*headers, ("transfer-encoding", "chunked")]
    return request("POST", infer_path(model, version), fields, chunked([body]))


def infer_path(model: str, version: str = "") -> str:
    """Where a model, or one version of it, is asked."""
    return f"/v2/models/{model}{f'/versions/{version}' if version else ''}/infer"


def chunked(chunks: Iterable[bytes]) -> bytes:
    """A body as chunks, with its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in chunks if one) + b"0\r\n\r\n"


def infer_json(
    name: str, datatype: str, shape: Sequence[int], data: Sequence[Any], **more: Any
) -> bytes:
    """The JSON of an infer request with one input."""
    one = {"name": name, "datatype": datatype, "shape": list(shape), "data": list(data)}
    return json.dumps({"inputs": [one], **more}).encode()


def floats_json(rows: int = 1, width: int = 4, first: float = 0.0, **more: Any) -> bytes:
    """FP32 ``x[rows, width]`` that counts up from ``first``."""
    return infer_json(
        "x", "FP32", [rows, width], [first + step for step in range(rows * width)], **more
    )
