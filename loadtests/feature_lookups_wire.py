"""Decides how the client of the lookup bench writes requests that differ, and how it reads what comes back.

HTTP/1.1 is the open-loop client's own connection with a body for each request. gRPC is written out in frames: a Python
client with a full HTTP/2 stack would be slower than the server that it should saturate. Every answer is compared with
the model's. It must never count a reply that is not the right one as answered.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from dataclasses import replace

from loadtests.feature_lookups_data import MODELS, Requests, Variant
from loadtests.http_connection import HttpConnection
from loadtests.json_payload import infer_path
from loadtests.protobuf_payload import INFER_PATH
from loadtests.replies import Outcome, Reply

WRONG = "a wrong answer"
_READ_BYTES = 1 << 18
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_MAX_FRAME, _FIRST_WINDOW, _WIDEST = 16384, 65535, (1 << 31) - 1
_INITIAL_WINDOW_SETTING, _STREAMS_SETTING = 4, 3
_STREAMS_UNLESS_TOLD = 100


class MixedHttp(HttpConnection):
    """Sends the body that a request's number stands for."""

    def __init__(self, address: tuple[str, int], variant: Variant, requests: Requests) -> None:
        super().__init__(address, infer_path(MODELS[variant]), b"")
        self._requests = requests
        head = self._request.partition(b"content-length:")[0]
        self._texts = [
            head + b"content-length: %d\r\n\r\n" % len(body) + body for body in requests.bodies
        ]

    def send(self, token: int) -> None:
        """Writes it."""
        self._request = self._texts[self._requests.which(token)]
        super().send(token)

    def receive(self) -> list[Reply]:
        """Replies whose answers were compared."""
        return judged(super().receive(), self._requests)


def judged(replies: list[Reply], requests: Requests) -> list[Reply]:
    """The same, where a wrong answer is a failure."""
    return [
        one
        if one.outcome != "answered" or requests.is_right(one.token, one.body)
        else replace(one, outcome="failed", detail=WRONG)
        for one in replies
    ]


class FrameConnection:
    """Implements ``replies.Connection`` for unary gRPC calls with messages that differ.

    A call is answered when a message came before the end of its stream: a gRPC error brings none.
    """

    def __init__(self, address: tuple[str, int], requests: Requests, streams: int) -> None:
        host, port = address
        self._requests = requests
        head = _header_block(f"{host}:{port}")
        self._messages = [_data(body) for body in requests.bodies]
        self._head = head
        self._limit = min(streams, _STREAMS_UNLESS_TOLD)
        self._asked_streams = streams
        self._next = 1
        self._window = _FIRST_WINDOW
        self._tokens: dict[int, int] = {}
        self._bodies: dict[int, bytes] = {}
        self._failed: list[Reply] = []
        self._held: deque[int] = deque()
        self._rest = b""
        self._broken = False
        self._socket = socket.create_connection(address, timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        settings = struct.pack(">HI", _INITIAL_WINDOW_SETTING, _WIDEST)
        wider = struct.pack(">I", _WIDEST - _FIRST_WINDOW)
        self._unsent = _PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW, 0, 0, wider)
        self.flush()

    def fileno(self) -> int:
        """For the poller."""
        return self._socket.fileno()

    @property
    def has_room(self) -> bool:
        """Below its number of calls at once."""
        return len(self._tokens) < self._limit and not self._broken

    @property
    def broken(self) -> bool:
        """The server closed it, or is about to."""
        return self._broken

    def send(self, token: int) -> None:
        """Opens a stream with the whole request; it waits while the server's window is too small."""
        self._tokens[self._next] = token
        self._held.append(self._next)
        self._next += 2
        self._release()
        self.flush()

    def flush(self) -> None:
        """Writes what the socket did not take before."""
        if self._unsent:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                return
            except OSError as problem:
                self._break(str(problem))

    def receive(self) -> list[Reply]:
        """Reads what is there; the replies that it completed, compared."""
        done: list[Reply] = []
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data:
            self._take(self._rest + data, done)
            self._release()
            self.flush()
        elif data is not None:
            self._break("the server closed the connection")
        if self._failed:
            done += self._failed
            self._failed = []
        return judged(done, self._requests)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    # -- inside -----------------------------------------------------------------------------------

    def _release(self) -> None:
        """Writes held requests, in order, as far as the connection's window goes."""
        parts: list[bytes] = []
        while self._held:
            pieces, size = self._messages[self._requests.which(self._tokens[self._held[0]])]
            if size > self._window:
                break
            self._window -= size
            stream = struct.pack(">I", self._held.popleft())
            parts += (self._head[:5], stream, self._head[5:])
            for head, payload in pieces:
                parts += (head, stream, payload)
        if parts:
            self._unsent += b"".join(parts)

    def _take(self, data: bytes, done: list[Reply]) -> None:
        at, end = 0, len(data)
        while end - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            if end - at - 9 < size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            payload = data[at + 9 : at + 9 + size]
            at += 9 + size
            if kind == _DATA:
                self._bodies[stream] = self._bodies.get(stream, b"") + payload
            elif kind == _RST:
                self._end(stream, done)
                continue
            elif kind != _HEADERS:
                self._control(kind, flags, stream, payload)
                continue
            if flags & _END_STREAM:
                self._end(stream, done)
        self._rest = data[at:]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == _STREAMS_SETTING:
                    self._limit = min(self._asked_streams, value)
            self._unsent += frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._unsent += frame(_PING, _ACK, 0, payload)
        elif kind == _GOAWAY:
            self._break("the server asked to go away")

    def _end(self, stream: int, done: list[Reply]) -> None:
        token = self._tokens.pop(stream, None)
        body = self._bodies.pop(stream, b"")
        if token is None:
            return
        outcome: Outcome = "answered" if len(body) > 5 else "failed"
        done.append(Reply(token, outcome, "message" if body else "no message", body[5:]))

    def _break(self, why: str) -> None:
        self._broken = True
        self._unsent = b""
        self._failed += [Reply(token, "failed", why, b"") for token in self._tokens.values()]
        self._tokens.clear()
        self._held.clear()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload
    )


def _header_block(authority: str) -> bytes:
    """The HEADERS frame of every call, less its stream: five bytes of head, then the fields, none of them indexed."""
    fields = b"\x83\x86"  # :method POST, :scheme http
    fields += _literal(b"\x04", INFER_PATH.encode()) + _literal(b"\x01", authority.encode())
    fields += _literal(b"\x0f\x10", b"application/grpc") + _literal(b"\x00\x02te", b"trailers")
    return len(fields).to_bytes(3, "big") + bytes((_HEADERS, _END_HEADERS)) + fields


def _literal(name: bytes, value: bytes) -> bytes:
    if len(value) > 126:
        raise ValueError("a header value of more than 126 bytes")
    return name + bytes((len(value),)) + value


def _data(message: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """The DATA frames of a message, each as (head less its stream, payload); and how much window they take."""
    body = b"\0" + struct.pack(">I", len(message)) + message
    if len(body) > _FIRST_WINDOW:
        raise ValueError(
            f"a message of {len(message)} bytes does not fit the first window of a stream"
        )
    pieces = [body[at : at + _MAX_FRAME] for at in range(0, len(body), _MAX_FRAME)]
    return [
        (
            len(one).to_bytes(3, "big") + bytes((_DATA, _END_STREAM if one is pieces[-1] else 0)),
            one,
        )
        for one in pieces
    ], len(body)
