"""Clients that go on asking until the server has gone, and keep a strict account of every call.

A call is in flight once its bytes are written on an established connection that the server has not closed: from then
on it must be answered. The clients obey ``connection: close`` and GOAWAY, as all good clients do.
"""

from __future__ import annotations

import select
import socket
import threading
from abc import ABC, abstractmethod
from typing import Any

import grpc
import ngh2
import numpy as np
from ngh2.events import DataReceived, GoAwayReceived, StreamClosed

from tests.support import raw_h2
from tests.support.raw_h2 import infer_message
from tests.support.raw_http import ClosedError, RawHttp
from tests.support.server_process import ServerProcess

JOIN_WITHIN_S = 20.0
REFUSED_STREAM = 7

_CALL_HEADERS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", raw_h2.INFER.encode()),
    (b":authority", b"test"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]


class RestlessClient(ABC):
    """One thread. ``answered`` and ``failures`` may be read at any time."""

    def __init__(self, server: ServerProcess, name: str) -> None:
        self.server = server
        self.name = name
        self.answered = 0
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> None:
        """Wait until the client has seen the server go."""
        self._thread.join(JOIN_WITHIN_S)
        assert not self._thread.is_alive(), f"{self.name} still waits for an answer"

    def _run(self) -> None:
        try:
            while self.converse():
                pass
        except Exception as error:  # noqa: BLE001  # told by the test's own thread
            self.failures.append(f"{self.name}: {error!r}")

    @abstractmethod
    def converse(self) -> bool:
        """One connection's worth of calls; False when there is no server to connect to any more."""


class RestlessHttp(RestlessClient):
    """Asks the same thing again and again on a keep-alive connection."""

    def __init__(self, server: ServerProcess, name: str, request: bytes, answer: bytes) -> None:
        super().__init__(server, name)
        self._request = request
        self._answer = answer

    def converse(self) -> bool:
        try:
            connection = RawHttp(self.server.http)
        except OSError:
            return False
        with connection:
            while not _has_been_closed(connection):
                try:
                    connection.send(self._request)
                    response = connection.receive()
                except (ClosedError, OSError) as error:
                    self.failures.append(f"{self.name}: no answer to {self.answered}: {error!r}")
                    return True
                if response.status != 200 or self._answer not in response.body:
                    self.failures.append(f"{self.name}: {response}")
                self.answered += 1
                if response.closes:
                    break
        return True


def _has_been_closed(connection: RawHttp) -> bool:
    """Whether the server's end had come when we looked: then nothing more is sent, and nothing is in flight."""
    return bool(select.select([connection.socket], [], [], 0)[0])


class RestlessGrpc(RestlessClient):
    """Keeps a number of streams open; libnghttp2 knows which of them a GOAWAY disowned."""

    def __init__(
        self, server: ServerProcess, name: str, message: bytes, answer: bytes, *, streams: int
    ) -> None:
        super().__init__(server, name)
        self._framed = raw_h2.frame(message)
        self._answer = answer
        self._streams = streams

    def converse(self) -> bool:
        try:
            connection = socket.create_connection(self.server.grpc, timeout=JOIN_WITHIN_S)
        except OSError:
            return False
        with connection:
            self._calls: dict[int, bytes] = {}
            self._told_to_go = False
            h2 = ngh2.Connection(ngh2.Role.CLIENT)
            h2.initiate_connection({})
            try:
                while not self._told_to_go or self._calls:
                    self._fill(h2)
                    connection.sendall(h2.data_to_send())
                    data = connection.recv(65536)
                    if not data:
                        break
                    h2.receive_data(data)
                    for event in h2.events():
                        self._take(event)
            except ConnectionError as error:
                self.failures.append(f"{self.name}: {error!r} with {len(self._calls)} calls")
            else:
                if self._calls:
                    self.failures.append(f"{self.name}: closed on streams {list(self._calls)}")
        return True

    def _fill(self, h2: ngh2.Connection) -> None:
        while not self._told_to_go and len(self._calls) < self._streams:
            stream = h2.send_request(_CALL_HEADERS)
            h2.send_data(stream, self._framed, end_stream=True)
            self._calls[stream] = b""

    def _take(self, event: Any) -> None:
        if isinstance(event, GoAwayReceived):
            self._told_to_go = True
        elif isinstance(event, DataReceived):
            self._calls[event.stream_id] += event.data
        elif isinstance(event, StreamClosed):
            body = self._calls.pop(event.stream_id)
            if event.error_code == REFUSED_STREAM:
                return  # disowned by a GOAWAY: any client may try it again elsewhere
            if event.error_code or self._answer not in body:
                self.failures.append(f"{self.name}: {event.error_code}, {len(body)} bytes")
            self.answered += 1


class RestlessChannel(RestlessClient):
    """grpcio's own client, several calls at once: what applications use."""

    def __init__(self, server: ServerProcess, name: str, message: bytes, *, calls: int) -> None:
        super().__init__(server, name)
        self._message = message
        self._calls = calls

    def converse(self) -> bool:
        with grpc.insecure_channel("{}:{}".format(*self.server.grpc)) as channel:
            infer: Any = channel.unary_unary(raw_h2.INFER)
            while True:
                made = [infer.future(self._message, timeout=15) for _ in range(self._calls)]
                for call in made:
                    code = call.code()
                    if code is grpc.StatusCode.OK:
                        self.answered += 1
                    elif "Connection refused" in (call.details() or ""):
                        return False  # it was never sent: the port is closed
                    else:
                        self.failures.append(f"{self.name}: {code} {call.details()}")


def row(width: int) -> bytes:
    """One row that counts up, as raw bytes."""
    return np.arange(width, dtype=np.float32).tobytes()


def message(model: str, width: int) -> bytes:
    """An infer message with that row."""
    return infer_message(model, row(width), [1, width])
