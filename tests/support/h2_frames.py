"""HTTP/2 frames as bytes, for clients that no library would let a test write."""

from __future__ import annotations

from collections.abc import Sequence

from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.support.raw_h2 import CANCEL, INFER, PREFACE

Fields = Sequence[tuple[str, str]]


def opening(settings: dict[int, int] | None = None) -> bytes:
    """The preface and the first SETTINGS of a client."""
    return PREFACE + SettingsFrame(0, settings=settings or {}).serialize()


class CallFrames:
    """The frames of calls on one connection, with ids that count up."""

    def __init__(self, path: str = INFER) -> None:
        self._encoder = Encoder()
        self._path = path
        self._next_id = 1

    def headers(self, *, end_stream: bool = False) -> tuple[int, bytes]:
        """The HEADERS of the next call, and its id."""
        stream_id, self._next_id = self._next_id, self._next_id + 2
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", self._path),
            (":authority", "test"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        made = HeadersFrame(stream_id, data=self._encoder.encode(fields))
        made.flags.add("END_HEADERS")
        if end_stream:
            made.flags.add("END_STREAM")
        return stream_id, made.serialize()

    def call(self, framed: bytes) -> tuple[int, bytes]:
        """A whole call with a small message that has its prefix, and its id."""
        stream_id, head = self.headers()
        return stream_id, head + data(stream_id, framed, end_stream=True)

    def opened_and_reset(self) -> bytes:
        """A call that is given up in the same breath."""
        stream_id, head = self.headers()
        return head + reset(stream_id)


def data(stream_id: int, payload: bytes, *, end_stream: bool = False) -> bytes:
    """A DATA frame."""
    made: Frame = DataFrame(stream_id, data=payload)
    if end_stream:
        made.flags.add("END_STREAM")
    return made.serialize()


def reset(stream_id: int, code: int = CANCEL) -> bytes:
    """A RST_STREAM frame."""
    return RstStreamFrame(stream_id, error_code=code).serialize()


def ping() -> bytes:
    """A PING frame."""
    return PingFrame(0, opaque_data=b"12345678").serialize()


def settings(values: dict[int, int] | None = None) -> bytes:
    """A SETTINGS frame."""
    return SettingsFrame(0, settings=values or {}).serialize()


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return WindowUpdateFrame(stream_id, window_increment=increment).serialize()


def frames_of(received: bytes) -> list[Frame]:
    """The whole frames in what was received."""
    return split(received)[0]


def split(received: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames in what was received, and the rest."""
    frames: list[Frame] = []
    while len(received) >= 9:
        made, length = Frame.parse_frame_header(memoryview(received[:9]))
        if len(received) < 9 + length:
            break
        made.parse_body(memoryview(received[9 : 9 + length]))
        frames.append(made)
        received = received[9 + length :]
    return frames, received
