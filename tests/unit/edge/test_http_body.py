from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.admission import Admission, AdmissionLimits
from gateway.edge import http_body
from gateway.edge.http_body import expand, inflate, inflate_small, read_body
from gateway.errors import ErrorCode, HeadraceError

PACK = {"gzip": lambda data: gzip.compress(data, mtime=0), "deflate": zlib.compress}
ENCODINGS = sorted(PACK)
ROOMY = 1024


def refusal(body: bytes, encoding: str, limit: int = ROOMY) -> HeadraceError:
    with pytest.raises(HeadraceError) as refused:
        inflate(body, encoding, limit)
    return refused.value


# -- expanding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("data", [b"", b"x", b'{"inputs":[]}', bytes(range(256)) * 3])
def test_a_body_is_expanded(encoding: str, data: bytes) -> None:
    assert inflate(PACK[encoding](data), encoding, ROOMY) == data


@given(st.binary(max_size=2000), st.sampled_from(ENCODINGS), st.integers(-2, 2))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_limit_counts_expanded_bytes_exactly(data: bytes, encoding: str, room: int) -> None:
    limit = max(0, len(data) + room)
    if len(data) <= limit:
        assert inflate(PACK[encoding](data), encoding, limit) == data
    else:
        assert refusal(PACK[encoding](data), encoding, limit).code is ErrorCode.TOO_LARGE


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_body_of_whole_steps_is_expanded(
    encoding: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of each step zlib may hold output back, or have its trailer still to read."""
    monkeypatch.setattr(http_body, "INFLATE_STEP_BYTES", 1000)
    data = bytes(1000 * steps)
    packed = PACK[encoding](data)
    assert inflate(packed, encoding, len(data)) == data
    assert "larger than" in refusal(packed, encoding, len(data) - 1).message


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bomb_is_given_up_at_the_limit(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grown: list[int] = []
    unpackers = zlib.decompressobj

    class Watched:
        def __init__(self, window_bits: int) -> None:
            self.unpacker = unpackers(window_bits)

        def decompress(self, data: bytes, max_length: int) -> bytes:
            piece = self.unpacker.decompress(data, max_length)
            grown.append(len(piece))
            return piece

        def __getattr__(self, name: str) -> object:
            return getattr(self.unpacker, name)

    bomb = PACK[encoding](bytes(10_000_000))
    monkeypatch.setattr("gateway.edge.http_body.zlib.decompressobj", Watched)
    error = refusal(bomb, encoding, 5000)
    assert error.code is ErrorCode.TOO_LARGE
    assert "larger than the 5000 bytes" in error.message
    assert "http.max_body_bytes" in error.message
    assert sum(grown) == 5001


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_that_is_cut_anywhere_is_refused(encoding: str) -> None:
    packed = PACK[encoding](b"all of it" * 20)
    for end in range(len(packed)):
        error = refusal(packed[:end], encoding)
        assert error.code is ErrorCode.INVALID_ARGUMENT
        assert error.message == f"the {encoding} body ends too early"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_follows_the_end_is_refused(encoding: str) -> None:
    error = refusal(PACK[encoding](b"data") + b"junk", encoding)
    assert error.message == f"4 bytes follow the end of the {encoding} body"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("body", [b"not packed at all", b"\x1f\x8b\x08\xff" * 8])
def test_what_is_not_packed_is_refused(encoding: str, body: bytes) -> None:
    assert f"the body is not valid {encoding}" in refusal(body, encoding).message


@pytest.mark.parametrize(("encoding", "checksum"), [("gzip", -8), ("deflate", -4)])
def test_a_damaged_body_is_refused(encoding: str, checksum: int) -> None:
    packed = bytearray(PACK[encoding](b"some data" * 50))
    packed[checksum] ^= 0xFF
    assert "incorrect data check" in refusal(bytes(packed), encoding).message


# -- at once, or on a thread ----------------------------------------------------------------------


def test_small_bodies_are_expanded_at_once() -> None:
    assert inflate_small(gzip.compress(b"small"), "gzip", ROOMY) == b"small"


def test_what_would_hold_the_loop_is_left_to_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_body, "INLINE_EXPANDED_BYTES", 1000)
    large = gzip.compress(bytes(1001), mtime=0)
    assert inflate_small(large, "gzip", 5000) is None
    assert inflate_small(gzip.compress(bytes(1000)), "gzip", 5000) == bytes(1000)
    monkeypatch.setattr(http_body, "OFF_LOOP_FROM_BYTES", len(large))
    assert inflate_small(large, "gzip", 5000) is None


def test_a_limit_below_that_is_a_limit() -> None:
    with pytest.raises(HeadraceError, match="larger than the 10 bytes"):
        inflate_small(gzip.compress(bytes(11)), "gzip", 10)


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_a_plain_body_stays_as_it_is(encoding: str) -> None:
    body = b"plain"
    assert asyncio.run(expand(body, encoding, 1)) is body


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_expanding_gives_the_same_at_once_and_on_a_thread(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = PACK[encoding](b"data" * 100)
    at_once = asyncio.run(expand(packed, encoding, ROOMY))
    monkeypatch.setattr(http_body, "OFF_LOOP_FROM_BYTES", 1)
    assert asyncio.run(expand(packed, encoding, ROOMY)) == at_once == b"data" * 100


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip,gzip", "gzip, identity", "x"])
def test_other_encodings_are_not_offered(encoding: str) -> None:
    with pytest.raises(HeadraceError, match="use gzip, deflate or none") as refused:
        asyncio.run(expand(b"", encoding, ROOMY))
    assert refused.value.code is ErrorCode.UNIMPLEMENTED


# -- reading --------------------------------------------------------------------------------------


def read(*chunks: bytes, limit: int = 10, max_bytes: int = 100, inside: int = 0) -> bytes:
    """The body, with ``inside`` bytes in the process already; whatever happens, what was reserved is given back."""
    admission = Admission(AdmissionLimits(max_bytes=max_bytes))
    admission.reserve_bytes(inside)

    async def arriving() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    try:
        return asyncio.run(read_body(arriving(), limit, admission))
    finally:
        assert admission.bytes_inside == inside


@pytest.mark.parametrize("chunks", [(), (b"",), (b"0123456789",), (b"01", b"", b"23456789")])
def test_a_body_is_all_of_its_chunks(chunks: tuple[bytes, ...]) -> None:
    assert read(*chunks) == b"".join(chunks)


@pytest.mark.parametrize("chunks", [(b"01234567890",), (b"0123456789", b"0")])
def test_a_body_above_the_limit_is_refused(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(HeadraceError, match="larger than the 10 bytes") as refused:
        read(*chunks)
    assert refused.value.code is ErrorCode.TOO_LARGE


def test_a_body_that_the_process_has_no_room_for_is_refused() -> None:
    with pytest.raises(HeadraceError, match="too many bytes") as refused:
        read(b"0123", b"4567", inside=95)
    assert refused.value.code is ErrorCode.OVERLOADED
    assert refused.value.retry_after_s == 1.0


def test_bytes_are_reserved_as_they_arrive() -> None:
    admission = Admission(AdmissionLimits())
    reserved: list[int] = []

    async def arriving() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"1234"
            reserved.append(admission.bytes_inside)

    asyncio.run(read_body(arriving(), 100, admission))
    assert reserved == [4, 8, 12]
    assert admission.bytes_inside == 0


def test_a_caller_that_goes_away_while_sending_gives_its_room_back() -> None:
    admission = Admission(AdmissionLimits())

    async def arriving() -> AsyncIterator[bytes]:
        yield b"1234"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(read_body(arriving(), 100, admission))
    assert admission.bytes_inside == 0
