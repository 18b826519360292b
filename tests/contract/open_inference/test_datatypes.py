"""Every datatype of the protocol arrives and returns bit by bit, in every encoding that can carry it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from protos.inference import ModelInferRequest
from tests.support.protocol_callers import Array, Ask, Caller, CallError, Given, Wanted
from tests.support.raw_h2 import RawGrpc
from tests.support.server_process import ServerProcess


def _integers(datatype: str) -> Array:
    kind = np.dtype(datatype.lower())
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return np.array([[low, 0, 1, high], [high, 7, 42, low]], kind)


def _floats(kind: Any) -> Array:
    info = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]
    values = [[0.0, -0.0, 1.5, -2.25], [float(info.max), float(info.min), float(info.tiny), 0.125]]
    return np.array(values, kind)


VALUES: dict[str, Array] = {
    "BOOL": np.array([[True, False, True, True], [False, False, True, False]]),
    **{name: _integers(name) for name in ("UINT8", "UINT16", "UINT32", "UINT64")},
    **{name: _integers(name) for name in ("INT8", "INT16", "INT32", "INT64")},
    "FP16": _floats(np.float16),
    "BF16": _floats(ml_dtypes.bfloat16),
    "FP32": _floats(np.float32),
    "FP64": _floats(np.float64),
    "BYTES": np.array(
        [
            [b"", b"plain", "ünïcødé ✓".encode(), b"with \0 inside"],
            [b"a" * 300, b'"', b"\\", b"\n"],
        ],
        np.object_,
    ),
}
RAW_ONLY = ("FP16", "BF16")
CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def _echo(caller: Caller, datatype: str, *, binary_in: bool, outputs: list[Wanted] | None) -> Array:
    given = Given("x", datatype, VALUES[datatype], binary_in)
    answer = caller.ask(Ask(f"identity_{datatype.lower()}", [given], outputs))
    assert list(answer.outputs) == ["y"]
    return answer.outputs["y"]


def _assert_same(datatype: str, found: Array) -> None:
    sent = VALUES[datatype]
    assert found.shape == sent.shape
    if datatype == "BYTES":
        assert found.tolist() == sent.tolist()
    else:
        assert found.dtype == sent.dtype
        assert found.tobytes() == sent.tobytes(), "bit by bit, the sign of zero included"


@pytest.mark.parametrize("datatype", VALUES)
def test_as_bytes(caller: Caller, datatype: str) -> None:
    _assert_same(datatype, _echo(caller, datatype, binary_in=True, outputs=None))


@pytest.mark.parametrize("datatype", VALUES)
def test_as_bytes_when_asked_by_name(caller: Caller, datatype: str) -> None:
    _assert_same(datatype, _echo(caller, datatype, binary_in=True, outputs=[Wanted("y")]))


@pytest.mark.parametrize("datatype", [name for name in VALUES if name not in RAW_ONLY])
@pytest.mark.parametrize(
    ("binary_in", "binary_out"), [(False, False), (False, True), (True, False)]
)
def test_as_json_on_either_side(
    http_caller: Caller, datatype: str, binary_in: bool, binary_out: bool
) -> None:
    wanted = [Wanted("y", binary_out)]
    found = _echo(http_caller, datatype, binary_in=binary_in, outputs=wanted)
    if datatype == "BYTES" and not binary_out:  # the client leaves JSON strings as str
        found = np.array([[str(one).encode() for one in row] for row in found.tolist()], np.object_)
    _assert_same(datatype, found)


@pytest.mark.parametrize("datatype", RAW_ONLY)
def test_halves_are_refused_as_json(http_caller: Caller, datatype: str) -> None:
    with pytest.raises(CallError, match="JSON cannot carry") as failed:
        _echo(http_caller, datatype, binary_in=True, outputs=[Wanted("y", binary=False)])
    assert failed.value.status == "400"


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents_over_grpc(server: ServerProcess, datatype: str) -> None:
    sent = VALUES[datatype]
    one = ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=list(sent.shape))
    getattr(one.contents, CONTENTS[datatype]).extend(sent.ravel().tolist())
    message = ModelInferRequest(model_name=f"identity_{datatype.lower()}", inputs=[one])
    with RawGrpc(server.grpc) as connection:
        reply = connection.ask(message.SerializeToString()).reply
    assert list(reply.outputs[0].shape) == list(sent.shape)
    assert reply.outputs[0].datatype == datatype
    if datatype == "BYTES":
        packed = b"".join(len(item).to_bytes(4, "little") + item for item in sent.ravel())
        assert reply.raw_output_contents[0] == packed
    else:
        assert reply.raw_output_contents[0] == sent.tobytes()
