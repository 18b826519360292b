from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.grpc_wire import PREFIX_BYTES, error_headers, frame, goaway, parse_timeout_s
from gateway.errors import ErrorCode, HeadraceError


def told(
    message: str, code: ErrorCode = ErrorCode.INTERNAL, retry_after_s: float | None = None
) -> dict[bytes, bytes]:
    headers = error_headers(HeadraceError(code, message, retry_after_s=retry_after_s))
    assert len(headers) == len(dict(headers)), "each header once"
    return dict(headers)


# -- grpc-timeout ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"250m", 0.25),
        (b"5u", 5e-6),
        (b"100n", 1e-7),
        (b"0S", 0.0),
        (b"00000001S", 1.0),
        (b"99999999H", 99999999 * 3600.0),
    ],
)
def test_a_timeout_is_digits_and_a_unit(value: bytes, seconds: float) -> None:
    assert parse_timeout_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        b"", b"S", b"1", b"10", b"1s", b"1h", b"1ms", b"-1S", b"+1S", b"1.5S", b"1e3S", b" 1S",
        b"1S ", b"1 S", b"1_0S", b"123456789S", b"\xd9\xa1S", b"1\xff", b"0x1S", b"infS",
    ],
)  # fmt: skip
def test_anything_else_is_refused(value: bytes) -> None:
    with pytest.raises(HeadraceError, match="grpc-timeout") as refused:
        parse_timeout_s(value)
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT


def test_a_long_value_is_not_repeated_whole() -> None:
    with pytest.raises(HeadraceError) as refused:
        parse_timeout_s(b"9" * 10_000)
    assert len(refused.value.message) < 100


# -- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
def test_a_message_follows_its_length(size: int) -> None:
    framed = frame(b"x" * size)
    assert framed[:1] == b"\0"
    assert int.from_bytes(framed[1:PREFIX_BYTES], "big") == size
    assert framed[PREFIX_BYTES:] == b"x" * size


def test_a_goaway_names_no_last_stream() -> None:
    """RFC 9113, sections 4.1 and 6.8: length, type, flags, stream; then last stream and error."""
    length, kind, flags, stream, last, error = (3, 1, 1, 4, 4, 4)
    sent = goaway(11)
    fields = []
    for size in (length, kind, flags, stream, last, error):
        fields.append(int.from_bytes(sent[:size], "big"))
        sent = sent[size:]
    assert fields == [8, 7, 0, 0, 0, 11]
    assert sent == b""


# -- errors ---------------------------------------------------------------------------------------


def test_an_error_is_an_answer_of_headers_only() -> None:
    assert told("no such model", ErrorCode.NOT_FOUND) == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"5",
        b"grpc-message": b"no such model",
    }


@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        ("plain: a, b; (c) [d] {e} \"f\" 'g' ~!", b"plain: a, b; (c) [d] {e} \"f\" 'g' ~!"),
        ("100 %", b"100 %25"),
        ("two\nlines\r\n", b"two%0Alines%0D%0A"),
        ("größe", b"gr%C3%B6%C3%9Fe"),
        ("数", b"%E6%95%B0"),
        ("\x00\x7f\t", b"%00%7F%09"),
    ],
)
def test_a_message_travels_in_printable_ascii(message: str, encoded: bytes) -> None:
    assert told(message)[b"grpc-message"] == encoded


@given(st.text(max_size=60))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_a_message_arrives_as_it_was(message: str) -> None:
    encoded = told(message)[b"grpc-message"]
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    expected = message.encode("utf-8", "replace").decode()
    assert unquote(encoded.decode(), errors="strict") == expected


def test_half_a_character_pair_does_not_break_the_answer() -> None:
    assert told("file \udce9")[b"grpc-message"] == b"file ?"


def test_a_long_message_is_cut() -> None:
    assert len(told("x" * 100_000)[b"grpc-message"]) == 1024


@pytest.mark.parametrize(
    ("retry_after_s", "pushback_ms"),
    [(None, None), (0.0, b"1"), (0.0004, b"1"), (0.25, b"250"), (2.0, b"2000")],
)
def test_when_to_try_again_is_told_in_milliseconds(
    retry_after_s: float | None, pushback_ms: bytes | None
) -> None:
    headers = told("full", ErrorCode.OVERLOADED, retry_after_s)
    assert headers.get(b"grpc-retry-pushback-ms") == pushback_ms


def test_what_is_not_offered_names_the_encodings_that_are() -> None:
    headers = told("no snappy here", ErrorCode.UNIMPLEMENTED)
    assert headers[b"grpc-accept-encoding"] == b"identity,gzip,deflate"
    assert b"grpc-accept-encoding" not in told("other", ErrorCode.INTERNAL)
