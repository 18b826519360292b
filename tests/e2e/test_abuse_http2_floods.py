"""HTTP/2 peers that flood, and bombs for header compression: each is cut or costs little, and somebody else is served.

``test_grpc_connections.py`` has the commoner kinds: garbage, floods of PING, SETTINGS and empty DATA, rapid reset, deaf
readers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PriorityFrame,
)

from tests.support import h2_frames
from tests.support.floods import MB, cut, dial, endured, pour
from tests.support.h2_frames import CallFrames, frames_of, opening
from tests.support.raw_h2 import INFER, frame, infer_message
from tests.support.server_process import ServerProcess

ENHANCE_YOUR_CALM = 11
HEADER_TABLE_SIZE = 1
LARGEST_FRAME = 16_384

IDENTITY = frame(infer_message("identity", bytes(16), [1, 4]))
SLOW = frame(infer_message("slow", bytes(256), [1, 64]))
FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", INFER),
    (":authority", "test"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def goaways(heard: bytes) -> list[int]:
    return [one.error_code for one in frames_of(heard) if isinstance(one, GoAwayFrame)]


# ---- floods ----------------------------------------------------------------------------------------


def _priorities() -> bytes:
    made = (PriorityFrame(2 * n + 1, depends_on=0, stream_weight=5) for n in range(500))
    return b"".join(one.serialize() for one in made)


def _continued(piece: bytes) -> bytes:
    return ContinuationFrame(1, data=piece).serialize()


_HEAD = HeadersFrame(1, data=b"").serialize()
FLOODS: dict[str, tuple[bytes, bytes]] = {
    "priority": (b"", _priorities()),
    "unknown frames": (b"", (b"\0\0\x08\xbb\0\0\0\0\0" + bytes(8)) * 500),
    "goaway": (b"", GoAwayFrame(0, last_stream_id=0, error_code=0).serialize() * 500),
    "continued fields": (_HEAD, _continued(b"\x00\x01a\x01b" * 3000)),
    "continued value": (
        HeadersFrame(1, data=b"\x00\x01a\x7f\x81\x7f").serialize(),
        _continued(b"b" * 16_000),
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_floods_that_are_cut(server: ServerProcess, kind: str) -> None:
    first, burst = FLOODS[kind]
    with endured(server), dial(server.grpc) as connection:
        connection.sendall(opening() + first)
        was_cut, heard = pour(connection, lambda: burst, 400 * MB)
        assert was_cut
        assert not any(isinstance(one, HeadersFrame) for one in frames_of(heard))
        assert set(goaways(heard)) <= {ENHANCE_YOUR_CALM}


def test_window_updates_without_end(server: ServerProcess) -> None:
    """They are legal, and cost a little less than sending them: nobody is held up."""
    burst = h2_frames.window_update(0, 1) * 1000
    with endured(server), dial(server.grpc) as connection:
        connection.sendall(opening())
        pour(connection, lambda: burst, 32 * MB, listens_s=0.1)
        cut(connection)


def _calls_without_headers() -> Iterator[bytes]:
    for number in itertools.count(1, 2):
        made = HeadersFrame(number, data=b"")
        made.flags |= {"END_HEADERS", "END_STREAM"}
        yield made.serialize()


def test_calls_without_headers(server: ServerProcess) -> None:
    with endured(server), dial(server.grpc) as connection:
        connection.sendall(opening())
        calls = _calls_without_headers()
        was_cut, heard = pour(connection, lambda: b"".join(itertools.islice(calls, 200)), 16 * MB)
        assert was_cut
        assert goaways(heard) in ([], [ENHANCE_YOUR_CALM])


def test_calls_beyond_the_limit_for_ever(server: ServerProcess) -> None:
    """Refusing is cheap, but not for nothing: a peer that never listens to the limit is cut."""
    calls = CallFrames()
    with endured(server), dial(server.grpc) as connection:
        connection.sendall(opening())
        was_cut, _ = pour(
            connection, lambda: b"".join(calls.headers()[1] for _ in range(200)), 16 * MB
        )
        assert was_cut


# ---- resets that we are made to send ---------------------------------------------------------------


def _overflow(stream_id: int) -> bytes:
    return h2_frames.window_update(stream_id, 2**31 - 1)


def _zero_increment(stream_id: int) -> bytes:
    return b"\0\0\x04\x08\0" + stream_id.to_bytes(4, "big") + bytes(4)


def _data_after_the_end(stream_id: int) -> bytes:
    return h2_frames.data(stream_id, b"x")


def _depends_on_itself(stream_id: int) -> bytes:
    return PriorityFrame(stream_id, depends_on=stream_id).serialize()


@pytest.mark.parametrize(
    "provoke", [_overflow, _zero_increment, _data_after_the_end, _depends_on_itself]
)
def test_made_to_reset(server: ServerProcess, provoke: Callable[[int], bytes]) -> None:
    """CVE-2025-8671: work is ordered, and then the server brought to give it up. The connection goes with it."""
    calls = CallFrames()

    def burst() -> bytes:
        pieces = []
        for _ in range(100):
            stream_id, call = calls.call(SLOW)
            pieces += call, provoke(stream_id)
        return b"".join(pieces)

    with endured(server), dial(server.grpc) as connection:
        connection.sendall(opening())
        was_cut, _ = pour(connection, burst, 4 * MB, listens_s=1)
        cut(connection)
    if provoke is not _depends_on_itself:  # which RFC 9113 made meaningless
        assert was_cut


def test_refusals_that_end_in_resets(server: ServerProcess) -> None:
    """A message that is announced as too large is answered and reset: at the cost of a small call."""
    calls = CallFrames()

    def burst() -> bytes:
        pieces = []
        for _ in range(200):
            stream_id, head = calls.headers()
            pieces += head, h2_frames.data(stream_id, b"\0\xff\xff\xff\xff")
        return b"".join(pieces)

    with endured(server), dial(server.grpc) as connection:
        connection.sendall(opening())
        pour(connection, burst, MB // 4, listens_s=0.1)
        cut(connection)


# ---- header compression ----------------------------------------------------------------------------


def _blocks(stream_id: int, block: bytes) -> bytes:
    pieces = [block[at : at + LARGEST_FRAME] for at in range(0, len(block), LARGEST_FRAME)]
    frames: list[Frame] = [HeadersFrame(stream_id, data=pieces[0])]
    frames += [ContinuationFrame(stream_id, data=piece) for piece in pieces[1:]]
    frames[-1].flags.add("END_HEADERS")
    return b"".join(one.serialize() for one in frames)


def test_a_bomb_of_header_compression(server: ServerProcess) -> None:
    """A field of four kilobytes in the table, named again and again by one byte: sixteen megabytes a call."""
    encoder = Encoder()
    large = ("x-large", "a" * 3900)
    planted = _blocks(1, encoder.encode([*FIELDS, large]))
    bomb = encoder.encode([*FIELDS, *[large] * 4000])
    assert len(bomb) < 8000
    numbers = itertools.count(3, 2)
    with endured(server, grows_bytes=8 * MB), dial(server.grpc) as connection:
        connection.sendall(opening() + planted)
        was_cut, heard = pour(
            connection, lambda: b"".join(_blocks(next(numbers), bomb) for _ in range(20)), 8 * MB
        )
        assert was_cut
        assert goaways(heard) in ([], [ENHANCE_YOUR_CALM])


def test_tables_that_grow_and_shrink(server: ServerProcess) -> None:
    """The peer moves the size of our encoder's table between nothing and four gigabytes, and asks between."""
    calls = CallFrames()
    sizes = itertools.cycle((0, 2**32 - 1))

    def burst() -> bytes:
        pieces = []
        for _ in range(20):
            pieces += h2_frames.settings({HEADER_TABLE_SIZE: next(sizes)}), calls.call(IDENTITY)[1]
        return b"".join(pieces)

    with endured(server), dial(server.grpc) as connection:
        connection.sendall(opening())
        pour(connection, burst, MB // 4, listens_s=0.1)
        cut(connection)
