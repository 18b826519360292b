"""Decides how one infer stream is kept busy: a fixed number of messages in flight, as bytes made beforehand.

A client of a few lines on a plain socket, so that it is never the bottleneck: HEADERS once, then the same DATA frame
again and again, and replies counted by their bytes, which are always as many. It must never count a reply that differs
from the first, which was read and checked.
"""

import argparse
import math
import socket
import struct
import sys
import time

import msgspec

from loadtests import models, protobuf_payload

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW = 4
_SPEC_WINDOW_BYTES = 65535
_WIDE_BYTES = 2**31 - 1
_STREAM = 1
_READ_BYTES = 1 << 20
_TIMEOUT_S = 10.0


class StreamError(Exception):
    """The stream did not go as it should."""


class Frames:
    """Cuts HTTP/2 frames out of what arrives."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        """The frames that are whole now: (kind, flags, stream, payload)."""
        if self._rest:
            data = self._rest + data
        at, size, found = 0, len(data), []
        while size - at >= 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > size:
                break
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            found.append((data[at + 3], data[at + 4], stream, data[at + 9 : end]))
            at = end
        self._rest = data[at:]
        return found


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream.to_bytes(4, "big") + payload


class Stream:
    """One connection with one infer stream on it."""

    def __init__(self, address: tuple[str, int], model: str) -> None:
        self._socket = socket.create_connection(address, timeout=_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._frames = Frames()
        message = protobuf_payload.framed(protobuf_payload.infer_request(model))
        self._cost_bytes = len(message)
        self._data = frame(_DATA, 0, _STREAM, message)
        self._may_send_bytes = {0: _SPEC_WINDOW_BYTES, _STREAM: _SPEC_WINDOW_BYTES}
        self._body_bytes = 0
        self._first = b""
        self._is_known = False
        self._ended = False
        settings = struct.pack(">HI", _INITIAL_WINDOW, _WIDE_BYTES)
        widen = struct.pack(">I", _WIDE_BYTES - _SPEC_WINDOW_BYTES)
        self._socket.sendall(
            _PREFACE
            + frame(_SETTINGS, 0, 0, settings)
            + frame(_WINDOW, 0, 0, widen)
            + frame(_HEADERS, _END_HEADERS, _STREAM, header_block(address))
        )

    def first_reply(self) -> bytes:
        """One message, answered: the reply as it stands in the body, prefix and all."""
        self._send(1)
        while len(self._first) < 5 or len(self._first) < 5 + int.from_bytes(
            self._first[1:5], "big"
        ):
            self._receive()
        self._is_known = True
        return self._first

    def drive(self, in_flight: int, seconds: float) -> tuple[int, float]:
        """Keeps so many messages in flight, then waits for all answers: (answered, seconds)."""
        reply_bytes, clock = len(self._first), time.perf_counter
        self._body_bytes = 0
        sent = due = in_flight
        began_s = clock()
        self._send(due)
        until_s = began_s + seconds
        while True:
            self._receive()
            answered = self._body_bytes // reply_bytes
            if clock() >= until_s:
                break
            due = in_flight - (sent - answered)
            if due:
                self._send(due)
                sent += due
        while self._body_bytes < sent * reply_bytes:
            self._receive()
        if self._body_bytes != sent * reply_bytes:
            raise StreamError(f"{self._body_bytes} bytes are not {sent} replies of {reply_bytes}")
        return sent, clock() - began_s

    def close(self) -> None:
        """Half-closes, waits for the status, and closes."""
        self._socket.sendall(frame(_DATA, END_STREAM, _STREAM, b""))
        while not self._ended:
            self._receive()
        self._socket.close()

    def _send(self, count: int) -> None:
        while min(self._may_send_bytes.values()) < count * self._cost_bytes:
            self._receive()
        for key in self._may_send_bytes:
            self._may_send_bytes[key] -= count * self._cost_bytes
        self._socket.sendall(self._data * count)

    def _receive(self) -> None:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise StreamError("the server closed the connection")
        for kind, flags, stream, payload in self._frames.cut(data):
            if kind == _DATA:
                if not self._is_known:
                    self._first += payload
                self._body_bytes += len(payload)
            elif kind == _WINDOW:
                self._may_send_bytes[stream] += int.from_bytes(payload, "big")
            else:
                self._heed(kind, flags, payload)

    def _heed(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            for key, value in struct.iter_unpack(">HI", payload):
                if key == _INITIAL_WINDOW:
                    self._may_send_bytes[_STREAM] += value - _SPEC_WINDOW_BYTES
            self._socket.sendall(frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(frame(_PING, _ACK, 0, payload))
        elif kind == _HEADERS and flags & END_STREAM:
            self._ended = True
        elif kind in (_RESET, _GOAWAY):
            raise StreamError("the server ended the stream")


def header_block(address: tuple[str, int]) -> bytes:
    """The request's headers in HPACK: literals without indexing, so that no table is needed."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": protobuf_payload.STREAM_PATH,
        ":authority": f"{address[0]}:{address[1]}",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(b"\0" + _text(key) + _text(value) for key, value in fields.items())


def _text(value: str) -> bytes:
    assert len(value) < 127, value
    return bytes((len(value),)) + value.encode()


def main() -> None:
    """Opens a stream, checks one answer, drives, prints one line of JSON."""
    parser = argparse.ArgumentParser(description="Keeps one infer stream busy.")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--expected", type=float, required=True, help="the model's answer")
    given = parser.parse_args()
    stream = Stream((given.host, given.port), models.TINY)
    answer = protobuf_payload.streamed_answer_of(protobuf_payload.unframed(stream.first_reply()))
    if not math.isclose(answer, given.expected, rel_tol=1e-3, abs_tol=1e-5):
        raise StreamError(f"the answer was {answer}, expected {given.expected}")
    messages, seconds = stream.drive(given.in_flight, given.seconds)
    stream.close()
    told = {"messages": messages, "seconds": seconds}
    sys.stdout.write(msgspec.json.encode(told).decode() + "\n")


if __name__ == "__main__":
    main()
