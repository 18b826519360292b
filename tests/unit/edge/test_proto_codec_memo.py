"""The memo must read a message as the parser does, or leave it to the parser."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge import proto_codec
from gateway.edge.proto_codec import decode_infer
from gateway.edge.proto_memo import MAX_KNOWN, RequestMemo, read_opening
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import PredictRequest
from protos.inference import ModelInferRequest
from tests.support.servables import StubServable, stub, tensor_spec

ROW = np.array([1, 2, 3], np.float32).tobytes()
OTHER_ROW = np.array([7, 8, 9], np.float32).tobytes()


def model() -> StubServable:
    return stub([tensor_spec("x", "FP32", -1, 3)], [tensor_spec("y", "FP32", -1)], max_batch_size=8)


def two_inputs() -> StubServable:
    return stub(
        [tensor_spec("a", "FP32", -1, 3), tensor_spec("b", "BOOL", -1)],
        [tensor_spec("y", "FP32", -1)],
        max_batch_size=8,
    )


def field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([number * 8 + 2, len(data)]) + data


NAME = field(1, b"m")
INPUT = ModelInferRequest.InferInputTensor(
    name="x", datatype="FP32", shape=[1, 3]
).SerializeToString()
INPUTS = field(5, INPUT)


def plain(request_id: bytes = b"", row: bytes = ROW) -> bytes:
    return NAME + (field(3, request_id) if request_id else b"") + INPUTS + field(7, row)


def outcome(message: bytes, target: StubServable, *, by_parser: bool = False) -> Any:
    """The request as plain values, or the refusal's code."""

    def find(name: str, version: str) -> StubServable:
        if name != "m" or version not in ("", "1"):
            raise HeadraceError(ErrorCode.NOT_FOUND, name)
        return target

    try:
        if by_parser:
            request = proto_codec._parse_request(message, 5.0, find, None)
        else:
            request = decode_infer(message, 5.0, find)
    except HeadraceError as error:
        return error.code
    fields: list[Any] = [getattr(request, name) for name in PredictRequest.__struct_fields__]
    tensors = [
        (one.dtype, one.shape, one.tolist() if one.dtype == object else one.tobytes())
        for one in request.inputs
    ]
    fields[PredictRequest.__struct_fields__.index("inputs")] = tensors
    return fields


def known_to(target: StubServable) -> int:
    memo: RequestMemo = target.reply_templates["proto_request"].memo
    return len(memo._known)


def test_the_third_message_is_read_without_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    target = model()
    for request_id in (b"1", b"22"):
        assert outcome(plain(request_id), target) == outcome(
            plain(request_id), model(), by_parser=True
        )
    monkeypatch.setattr(proto_codec, "_parse_request", None)
    for request_id in (b"333", b"", "ä".encode()):
        fields = outcome(plain(request_id, OTHER_ROW), target)
        assert fields[2] == request_id.decode()
        assert fields[3] == [(np.dtype(np.float32), (1, 3), OTHER_ROW)]


def test_versions_do_not_share_ids() -> None:
    target = model()
    versioned = NAME + field(2, b"1") + field(3, b"i") + INPUTS + field(7, ROW)
    for _ in range(4):
        assert outcome(versioned, target) == outcome(versioned, model(), by_parser=True)


@pytest.mark.parametrize(
    ("message", "is_remembered"),
    [
        (plain(), True),
        (plain(b"i"), True),
        (NAME + field(2, b"1") + INPUTS + field(7, ROW), True),
        (NAME + INPUTS + field(6, field(1, b"y")) + field(7, ROW), True),
        # An unknown field is skipped as a whole, with the tensor's look-alike in it.
        (NAME + INPUTS + field(15, field(7, OTHER_ROW)) + field(7, ROW), True),
        # Not as protobuf writes it: the parser must read each.
        (INPUTS + NAME + field(7, ROW), False),
        (NAME + field(7, ROW) + INPUTS, False),
        (NAME + INPUTS + field(3, b"late") + field(7, ROW), False),
        (NAME + INPUTS + field(3, b"") + field(7, ROW), False),
        (NAME + field(3, b"i") + field(3, b"j") + INPUTS + field(7, ROW), False),
        (NAME + field(3, b"i") + NAME + INPUTS + field(7, ROW), False),
        (NAME + field(3, b"i") + field(2, b"1") + INPUTS + field(7, ROW), False),
        (NAME + INPUTS + field(7, ROW) + field(3, b"late"), False),
        (NAME + INPUTS + field(7, ROW) + field(6, field(1, b"y")), False),
        (NAME + INPUTS + field(7, ROW) + field(15, field(7, ROW)), False),
        (NAME + INPUTS + field(7, ROW) + field(15, b"...." + field(7, ROW)), False),
    ],
)
def test_a_message_that_comes_often(message: bytes, is_remembered: bool) -> None:
    target = model()
    for row in (ROW, ROW, ROW, OTHER_ROW):
        again = message[::-1].replace(ROW[::-1], row[::-1], 1)[::-1]
        assert outcome(again, target) == outcome(again, model(), by_parser=True)
    assert known_to(target) == is_remembered


@pytest.mark.parametrize("change", ["size", "gap", "bool", "end"])
def test_several_tensors(change: str) -> None:
    message = ModelInferRequest(model_name="m", id="i")
    message.inputs.add(name="b", datatype="BOOL", shape=[2])
    message.inputs.add(name="a", datatype="FP32", shape=[2, 3])
    message.raw_input_contents.extend([b"\0\1", ROW + OTHER_ROW])
    good = message.SerializeToString()
    target = two_inputs()
    for _ in range(4):
        assert outcome(good, target) == outcome(good, two_inputs(), by_parser=True)
    assert known_to(target) == 1
    start = len(good) - 24
    bad = {
        "size": good[:-1],
        "gap": good[: start - 2] + b"\x42" + good[start - 1 :],
        "bool": good[: start - 3] + b"\2" + good[start - 2 :],
        "end": good + field(3, b"j"),
    }[change]
    assert outcome(bad, target) == outcome(bad, two_inputs(), by_parser=True)


def strings() -> StubServable:
    return stub(
        [tensor_spec("carrier", "BYTES", -1, 1), tensor_spec("origin", "BYTES", -1, 1)],
        [tensor_spec("y", "FP32", -1)],
        max_batch_size=8,
    )


def elements(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def keys(carriers: list[bytes], origins: list[bytes]) -> bytes:
    message = ModelInferRequest(model_name="m")
    for name, values in (("carrier", carriers), ("origin", origins)):
        message.inputs.add(name=name, datatype="BYTES", shape=[len(values), 1])
        message.raw_input_contents.append(elements(*values))
    return message.SerializeToString()


def test_strings_of_the_same_lengths_are_read_without_the_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = strings()
    for _ in range(2):
        outcome(keys([b"UA"], [b"EWR"]), target)
    assert known_to(target) == 1
    expected = outcome(keys([b"B6"], [b"JFK"]), strings(), by_parser=True)
    monkeypatch.setattr(proto_codec, "_parse_request", None)
    assert outcome(keys([b"B6"], [b"JFK"]), target) == expected


@pytest.mark.parametrize(
    "message",
    [
        keys([b"UAL"], [b"EWR"]),
        keys([b"UAL"], [b"LG"]),  # as long as a remembered one, cut elsewhere
        keys([b"UA", b"B6"], [b"EWR", b"JFK"]),
        keys([b""], [b"EWRUA"]),
        keys([b"UA"], [b"EWR"]).replace(elements(b"EWR"), b"\4\0\0\0EWR"),
        keys([b"UA"], [b"EWR"]).replace(elements(b"EWR"), b"\2\0\0\0EWR"),
        keys([b"UA"], [b"EWR"]).replace(elements(b"UA"), b"\xff\xff\xff\xffUA"),
    ],
)
def test_other_strings_fare_as_with_the_parser(message: bytes) -> None:
    target = strings()
    for _ in range(3):
        outcome(keys([b"UA"], [b"EWR"]), target)
    expected = outcome(message, strings(), by_parser=True)
    for _ in range(4):
        assert outcome(message, target) == expected


def test_what_is_remembered_is_bounded() -> None:
    target = stub([tensor_spec("x", "UINT8", -1)], [tensor_spec("y", "FP32", -1)])
    for rows in range(MAX_KNOWN + 20):
        message = ModelInferRequest(model_name="m")
        message.inputs.add(name="x", datatype="UINT8", shape=[rows])
        message.raw_input_contents.append(b"\0" * rows)
        for _ in range(3):
            outcome(message.SerializeToString(), target)
    assert 0 < known_to(target) <= MAX_KNOWN
    memo = target.reply_templates["proto_request"].memo
    assert len(memo._seen) <= MAX_KNOWN


def test_keys_have_few_lengths() -> None:
    names = ["y" * length for length in range(1, 20)]
    target = stub(
        [tensor_spec("x", "FP32", -1, 3)], [tensor_spec(name, "FP32", -1) for name in names]
    )
    for name in names:
        message = NAME + INPUTS + field(6, field(1, name.encode())) + field(7, ROW)
        for _ in range(3):
            assert outcome(message, target)[5] == (len(name) - 1,)
    assert known_to(target) == 4


def test_timeouts_that_never_repeat_are_not_remembered() -> None:
    target = model()
    for timeout in range(1, 50):
        message = ModelInferRequest.FromString(plain())
        message.parameters["timeout"].int64_param = timeout
        fields = outcome(message.SerializeToString(), target)
        assert fields[6] == 5.0 + timeout / 1e6
    assert known_to(target) == 0


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x0a",
        b"\x0a\x01",
        b"\x0a\x01m",
        b"\x0a\x05m\x2a\x00",
        b"\x0a\x80\x01" + b"m" * 128 + INPUTS,
        b"\x0a\x01\xff" + INPUTS,
        NAME + b"\x12",
        NAME + b"\x12\x80\x01" + b"v" * 128 + INPUTS,
        NAME + b"\x1a\x80\x01" + b"i" * 128 + INPUTS,
        NAME + b"\x1a\x01\xff" + INPUTS,
        NAME + b"\x1a\x05i",
        INPUTS,
    ],
)
def test_openings_that_are_left_to_the_parser(message: bytes) -> None:
    assert read_opening(message) is None


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    at=st.integers(0, len(plain(b"id")) - 1),
    byte=st.integers(0, 255),
    kind=st.sampled_from(["set", "insert", "cut", "delete", "repeat"]),
)
def test_damaged_messages_fare_as_with_the_parser(at: int, byte: int, kind: str) -> None:
    target = model()
    good = plain(b"id")
    for _ in range(3):
        outcome(good, target)
    assert known_to(target) == 1
    bad = {
        "set": good[:at] + bytes([byte]) + good[at + 1 :],
        "insert": good[:at] + bytes([byte]) + good[at:],
        "cut": good[:at],
        "delete": good[:at] + good[at + 1 :],
        "repeat": good[:at] + good[at - byte % 20 :],
    }[kind]
    for _ in range(3):
        told, expected = outcome(bad, target), outcome(bad, model(), by_parser=True)
        if isinstance(expected, ErrorCode):
            # Which of two faults is told first may differ.
            assert isinstance(told, ErrorCode)
        else:
            assert told == expected
