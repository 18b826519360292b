"""gRPC by hand: HTTP/2 through ``h2`` on a plain socket, with every frame under the test's control.

Tests that must break the protocol write bytes of their own with ``send_raw``.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from types import TracebackType
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from protos.inference import ModelInferRequest, ModelInferResponse
from tests.support.dialing import Target, dial

TIMEOUT_S = 10.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SERVICE = "/inference.GRPCInferenceService/"
INFER = SERVICE + "ModelInfer"
CANCEL = 8

OK = 0
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14
UNAUTHENTICATED = 16

Fields = Sequence[tuple[str, str]]


class ClosedError(Exception):
    """The server closed the connection."""


class Outcome:
    """What became of one call."""

    def __init__(self) -> None:
        self.http_status = 0
        self.status: int | None = None
        self.message = ""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.reset: int | None = None
        self.ended = False

    @property
    def reply(self) -> ModelInferResponse:
        """The one message of a call that went well."""
        assert self.status == OK, self
        assert self.body[0] == 0, "a compressed answer that nobody asked for"
        assert int.from_bytes(self.body[1:5], "big") == len(self.body) - 5, self
        return ModelInferResponse.FromString(self.body[5:])

    def __repr__(self) -> str:
        return (
            f"Outcome(http {self.http_status}, grpc {self.status} {self.message!r}, "
            f"{len(self.body)} bytes, reset {self.reset}, ended {self.ended})"
        )


class _OutlivesGoaway(h2.connection.H2ConnectionStateMachine):
    """``h2`` takes every GOAWAY for the end; by RFC 9113, section 6.8, calls under way go on."""

    def process_input(self, input_: h2.connection.ConnectionInputs) -> list[h2.events.Event]:
        if input_ is h2.connection.ConnectionInputs.RECV_GOAWAY:
            return []
        return super().process_input(input_)


class RawGrpc:
    """One HTTP/2 connection. ``window`` is the flow control window of each stream; ``grants`` opens it again."""

    def __init__(
        self,
        target: Target,
        *,
        window: int | None = None,
        grants: bool = True,
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = dial(target, timeout_s=timeout_s, tls=tls)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True, header_encoding="utf-8", validate_outbound_headers=False
            )
        )
        self.h2.state_machine = _OutlivesGoaway()
        if window is not None:
            settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            self.h2.local_settings = h2.settings.Settings(client=True, initial_values=settings)
        self.h2.initiate_connection()
        self.goaway: int | None = None
        self.last_stream_id = 2**31 - 1
        self.pongs = 0
        self._grants = grants
        self._outcomes: dict[int, Outcome] = {}
        self.flush()

    # -- calls ------------------------------------------------------------------------------------

    def open(self, path: str = INFER, headers: Fields = (), *, end_stream: bool = False) -> int:
        """Send the headers of a call; the id of its stream."""
        stream_id = self.h2.get_next_available_stream_id()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "test"),
            ("te", "trailers"),
        ]
        if "content-type" not in dict(headers):
            fields.append(("content-type", "application/grpc"))
        self.h2.send_headers(stream_id, [*fields, *headers], end_stream=end_stream)
        self.expect(stream_id)
        self.flush()
        return stream_id

    def expect(self, stream_id: int) -> None:
        """Listen for what becomes of a stream that the test opened by itself."""
        self._outcomes[stream_id] = Outcome()

    def send(self, stream_id: int, data: bytes, *, end_stream: bool = True) -> None:
        """Send bytes on a stream as flow control allows."""
        rest = memoryview(data)
        while len(rest) > (size := self._may_send(stream_id)):
            if size:
                self.h2.send_data(stream_id, bytes(rest[:size]))
                rest = rest[size:]
                self.flush()
            else:
                self.pump()
                if self._outcomes[stream_id].ended:
                    return  # the server has heard enough
        self.h2.send_data(stream_id, bytes(rest), end_stream=end_stream)
        self.flush()

    def _may_send(self, stream_id: int) -> int:
        window = self.h2.local_flow_control_window(stream_id)
        return min(window, self.h2.max_outbound_frame_size)

    def start(self, message: bytes, path: str = INFER, headers: Fields = ()) -> int:
        """A whole call with one message; the id of its stream."""
        stream_id = self.open(path, headers)
        self.send(stream_id, frame(message))
        return stream_id

    def outcome(self, stream_id: int) -> Outcome:
        """Wait for the end of a call."""
        outcome = self._outcomes[stream_id]
        while not outcome.ended:
            self.pump()
        return outcome

    def peek(self, stream_id: int) -> Outcome:
        """What is known of a call so far."""
        return self._outcomes[stream_id]

    def ask(self, message: bytes, path: str = INFER, headers: Fields = ()) -> Outcome:
        """One call from start to end."""
        return self.outcome(self.start(message, path, headers))

    def ended(self) -> int:
        """How many of the calls so far have ended."""
        return sum(one.ended for one in self._outcomes.values())

    def cancel(self, stream_id: int) -> None:
        """RST_STREAM, as a client does whose caller lost interest."""
        self.h2.reset_stream(stream_id, CANCEL)
        self.flush()

    # -- bytes ------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what ``h2`` has ready."""
        self.send_raw(self.h2.data_to_send())

    def send_raw(self, data: bytes) -> None:
        """Write bytes that ``h2`` knows nothing about."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise ClosedError from None

    def pump(self) -> None:
        """Read once and take in what came. Raises ``ClosedError`` when the server has gone."""
        try:
            data = self.socket.recv(1024 * 1024)
        except ConnectionError:
            data = b""
        if not data:
            raise ClosedError(f"goaway {self.goaway}")
        for event in self.h2.receive_data(data):
            self._take(event)
        self.flush()

    def pump_until_closed(self) -> None:
        """Read until the server closes; a timeout is a failure."""
        try:
            while True:
                self.pump()
        except ClosedError:
            return

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
            self.last_stream_id = event.last_stream_id or 0
            return
        if isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
            return
        outcome = self._outcomes.get(getattr(event, "stream_id", None) or 0)
        if outcome is None:
            return
        if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            fields = {str(name): str(value) for name, value in event.headers or ()}
            outcome.headers |= fields
            outcome.http_status = int(fields.get(":status", outcome.http_status))
            if "grpc-status" in fields:
                outcome.status = int(fields["grpc-status"])
                outcome.message = unquote(fields.get("grpc-message", ""))
        elif isinstance(event, h2.events.DataReceived):
            outcome.body += event.data or b""
            size = event.flow_controlled_length or 0
            if self._grants and size:
                self.h2.acknowledge_received_data(size, event.stream_id or 0)
        elif isinstance(event, h2.events.StreamEnded):
            outcome.ended = True
        elif isinstance(event, h2.events.StreamReset):
            outcome.reset = int(event.error_code or 0)
            outcome.ended = True

    def close(self) -> None:
        """Close the socket, without a word."""
        self.socket.close()

    def __enter__(self) -> RawGrpc:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def frame(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A message with gRPC's prefix; ``length`` lies about how long it is."""
    return bytes([flag]) + (len(message) if length is None else length).to_bytes(4, "big") + message


def infer_message(
    model: str,
    data: bytes,
    shape: Sequence[int],
    *,
    name: str = "x",
    datatype: str = "FP32",
    request_id: str = "",
    timeout_us: int | None = None,
) -> bytes:
    """A serialized ``ModelInferRequest`` with one raw input."""
    one = ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=list(shape))
    message = ModelInferRequest(
        model_name=model, id=request_id, inputs=[one], raw_input_contents=[data]
    )
    if timeout_us is not None:
        message.parameters["timeout"].int64_param = timeout_us
    return message.SerializeToString()
