"""Decides how one HTTP/2 connection of the open-loop client makes gRPC calls.

ngh2 does the framing; no event loop: the caller polls. It must never cancel at the deadline: a
cancelled call could not show that the server would have answered late.
"""

import socket

import ngh2

from loadtests import protobuf_payload
from loadtests.replies import Outcome, Reply

_BY_STATUS: dict[bytes, Outcome] = {b"0": "answered", b"14": "refused", b"4": "expired"}
_READ_BYTES = 262144
# What HTTP/2 leaves open when the server's settings name no limit.
_STREAMS_UNLESS_TOLD = 100


class GrpcConnection:
    """Implements `replies.Connection` for one fixed unary call."""

    def __init__(self, address: tuple[str, int], message: bytes, deadline_ms: int | None) -> None:
        host, port = address
        self._headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", protobuf_payload.INFER_PATH.encode()),
            (b":authority", f"{host}:{port}".encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ]
        if deadline_ms is not None:
            self._headers.append((b"grpc-timeout", f"{deadline_ms}m".encode()))
        self._message = protobuf_payload.framed(message)
        self._socket = socket.create_connection(address, timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._http2 = ngh2.Connection(ngh2.Role.CLIENT)
        self._http2.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: 1 << 20})
        self._tokens: dict[int, int] = {}
        self._bodies: dict[int, bytes] = {}
        self._room = _STREAMS_UNLESS_TOLD
        self._failed: list[Reply] = []
        self._unsent = b""
        self._broken = False
        self.flush()

    def fileno(self) -> int:
        """For the poller."""
        return self._socket.fileno()

    @property
    def has_room(self) -> bool:
        """Below the server's limit of concurrent streams."""
        return len(self._tokens) < self._room and not self._broken

    @property
    def broken(self) -> bool:
        """The server went away or asked the client to; calls in flight may still end."""
        return self._broken and not self._tokens

    def send(self, token: int) -> None:
        """Opens a stream with the whole request."""
        try:
            stream = self._http2.send_request(self._headers)
            self._http2.send_data(stream, self._message, end_stream=True)
        except ngh2.NGH2Error as problem:
            self._failed.append(Reply(token, "failed", f"connection: {problem}", b""))
            self._broken = True
            return
        self._tokens[stream] = token
        self.flush()

    def flush(self) -> None:
        """Writes what HTTP/2 wants to send, as far as the socket takes it."""
        self._unsent += self._http2.data_to_send()
        if self._unsent:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                return
            except OSError as problem:
                self._break(str(problem))

    def receive(self) -> list[Reply]:
        """Reads what is there and returns the calls that it ended."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        done: list[Reply] = []
        if data:
            self._http2.receive_data(data)
            for event in self._http2.events():
                self._take(event, done)
            self.flush()
        elif data is not None:
            self._break("the server closed the connection")
        if self._failed:
            done += self._failed
            self._failed = []
        return done

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def _take(self, event: ngh2.Event, done: list[Reply]) -> None:
        if isinstance(event, ngh2.DataReceived):
            stream = event.stream_id
            self._bodies[stream] = self._bodies.get(stream, b"") + event.data
        elif isinstance(event, ngh2.TrailersReceived):
            self._end(event.stream_id, dict(event.headers).get(b"grpc-status"), done)
        elif isinstance(event, ngh2.ResponseReceived) and event.end_stream:
            # A call that fails at once has its status in the only header block.
            self._end(event.stream_id, dict(event.headers).get(b"grpc-status"), done)
        elif isinstance(event, ngh2.StreamClosed):
            self._end(event.stream_id, None, done)
        elif isinstance(event, ngh2.SettingsReceived):
            limit = event.settings.get(int(ngh2.Setting.MAX_CONCURRENT_STREAMS))
            self._room = self._room if limit is None else limit
        elif isinstance(event, ngh2.GoAwayReceived):
            self._broken = True

    def _end(self, stream: int, status: bytes | None, done: list[Reply]) -> None:
        token = self._tokens.pop(stream, None)
        body = self._bodies.pop(stream, b"")
        if token is None:
            return
        outcome: Outcome = _BY_STATUS.get(status, "failed") if status else "failed"
        detail = f"grpc-status {status.decode()}" if status else "reset without a status"
        done.append(Reply(token, outcome, detail, body))

    def _break(self, why: str) -> None:
        self._broken = True
        self._unsent = b""
        self._failed += [Reply(token, "failed", why, b"") for token in self._tokens.values()]
        self._tokens.clear()
