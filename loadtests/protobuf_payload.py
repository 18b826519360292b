"""Decides the bytes of the V2 gRPC request, and reads the one number out of a reply.

Written out by hand from the field numbers of the open inference protocol, so that the harness
neither needs nor trusts the generated code of any server it measures. It must never grow into a
protobuf library: one row of floats in, one float out.
"""

import struct
from collections.abc import Iterator

from loadtests import models

INFER_PATH = "/inference.GRPCInferenceService/ModelInfer"
STREAM_PATH = "/inference.GRPCInferenceService/ModelStreamInfer"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# The prefix of every gRPC message: one byte for compression, four for the length.
_PREFIX = struct.Struct(">BI")


def infer_request(model: str, rows: int = 1) -> bytes:
    """ModelInferRequest with raw_input_contents."""
    data = models.sample_rows(rows)
    return _field(1, model.encode()) + _tensor(5, models.INPUT, data.shape) + _raw(7, data)


def infer_response(model: str, answer: float) -> bytes:
    """ModelInferResponse of the size that a real server would write."""
    head = _field(1, model.encode()) + _field(2, b"1")
    return head + _tensor(5, models.OUTPUT, (1, 1)) + _field(6, struct.pack("<f", answer))


def framed(message: bytes) -> bytes:
    """The message as it stands in an HTTP/2 body: uncompressed, with its prefix."""
    return _PREFIX.pack(0, len(message)) + message


def unframed(body: bytes) -> bytes:
    """The first message of a body."""
    compressed, length = _PREFIX.unpack_from(body)
    if compressed or len(body) < _PREFIX.size + length:
        raise ValueError("the reply is compressed or cut short")
    return body[_PREFIX.size : _PREFIX.size + length]


def answer_of(message: bytes) -> float:
    """The first float of raw_output_contents, or of fp32_contents in the first output."""
    for number, value in _fields(message):
        if number == 6:
            return float(struct.unpack_from("<f", value)[0])
    for number, tensor in _fields(message):
        if number == 5:
            contents = dict(_fields(tensor)).get(5, b"")
            return float(struct.unpack_from("<f", dict(_fields(contents))[6])[0])
    raise ValueError("the reply holds no output")


def streamed_answer_of(message: bytes) -> float:
    """The same out of a ModelStreamInferResponse; raises `ValueError` with the error that it holds instead."""
    fields = dict(_fields(message))
    if fields.get(1):
        raise ValueError(fields[1].decode(errors="replace"))
    return answer_of(fields[2])


def _tensor(number: int, name: str, shape: tuple[int, ...]) -> bytes:
    sizes = b"".join(_varint(size) for size in shape)
    return _field(number, _field(1, name.encode()) + _field(2, b"FP32") + _field(3, sizes))


def _raw(number: int, rows: models.Floats) -> bytes:
    return _field(number, rows.astype("<f4").tobytes())


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in the reply does not end")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields; others are stepped over."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _read_varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, at = _read_varint(data, at)
            yield key >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"unknown wire type {kind} in the reply")
