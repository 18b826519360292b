"""What every backend owes to the gateway, run on each of them with a model whose outputs are its
inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from backends.echo import EchoBackend
from backends.errors import InvalidModelInput
from backends.model_settings import OnnxRuntimeSettings
from backends.onnx import OnnxBackend
from backends.ports import Backend
from backends.signature import NUMPY_DTYPES, Signature, Tensor, TensorSpec
from tests.support import models

Specs = dict[str, tuple[str, tuple[int, ...]]]
"""Inputs of an identity model: name to datatype and shape."""

OpenIdentity = Callable[[Specs], Backend]


@pytest.fixture(scope="module", params=["onnx", "echo"])
def open_identity(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> OpenIdentity:
    def open_onnx(specs: Specs) -> Backend:
        path = models.write_model(tmp_path_factory.mktemp("models"), "m", identity_model(specs))
        return OnnxBackend.open(path, OnnxRuntimeSettings(), intra_op_threads=1)

    def open_echo(specs: Specs) -> Backend:
        inputs = tuple(TensorSpec(name, *spec) for name, spec in specs.items())
        return EchoBackend(inputs, output_names=tuple(f"{name}_out" for name in specs))

    return {"onnx": open_onnx, "echo": open_echo}[request.param]


def identity_model(specs: Specs) -> bytes:
    named: dict[str, Any] = {
        name: (datatype, tuple(f"d{i}" if size == -1 else size for i, size in enumerate(shape)))
        for name, (datatype, shape) in specs.items()
    }
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in specs]
    return models.graph(nodes, named, {f"{name}_out": spec for name, spec in named.items()})


@pytest.fixture(scope="module")
def by_datatype(open_identity: OpenIdentity) -> dict[str, Backend]:
    return {datatype: open_identity({"x": (datatype, (-1, 3))}) for datatype in NUMPY_DTYPES}


def tensors(datatype: str) -> st.SearchStrategy[Tensor]:
    dtype = NUMPY_DTYPES[datatype]
    shapes = st.tuples(st.integers(0, 5), st.just(3))
    if datatype != "BYTES":
        return hnp.arrays(dtype, shapes)
    texts = st.text(max_size=8).map(str.encode)
    return shapes.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=texts))


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
def test_what_goes_in_comes_out(datatype: str, by_datatype: dict[str, Backend]) -> None:
    backend = by_datatype[datatype]

    @given(tensors(datatype))
    @settings(derandomize=True, max_examples=15)
    def round_trip(tensor: Tensor) -> None:
        before = tensor.copy()
        [output] = backend.run([tensor])
        assert isinstance(output, np.ndarray)
        assert output.dtype == NUMPY_DTYPES[datatype]
        assert output.shape == tensor.shape
        assert output.flags.c_contiguous
        assert bits(output) == bits(before)
        assert bits(tensor) == bits(before), "the input was changed"
        assert not np.shares_memory(output, tensor)

    round_trip()


def bits(tensor: Tensor) -> object:
    """For comparison to the last bit: NaN has many, and an object array only has its elements."""
    return tensor.tolist() if tensor.dtype == np.object_ else tensor.tobytes()


def test_bfloat16_keeps_every_bit(by_datatype: dict[str, Backend]) -> None:
    every = np.arange(2**16 - 1, dtype=np.uint16).reshape(-1, 3)
    assert np.array_equal(by_datatype["BF16"].run([every])[0], every)


def test_strings_keep_zero_bytes_and_every_script(by_datatype: dict[str, Backend]) -> None:
    texts = np.array([[b"", b"a\0b\0", "naïve 東京 🚰".encode()]], np.object_)
    [output] = by_datatype["BYTES"].run([texts])
    assert output.tolist() == texts.tolist()
    assert all(type(element) is bytes for element in output.reshape(-1).tolist())


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
def test_a_scalar_stays_a_scalar(datatype: str, open_identity: OpenIdentity) -> None:
    backend = open_identity({"x": (datatype, ())})
    scalar = np.array(b"1" if datatype == "BYTES" else 1, NUMPY_DTYPES[datatype])
    [output] = backend.run([scalar])
    assert isinstance(output, np.ndarray)
    assert (output.shape, output.dtype) == ((), scalar.dtype)
    assert output.tolist() == scalar.tolist()


@pytest.mark.parametrize("datatype", NUMPY_DTYPES)
def test_inputs_may_be_read_only(datatype: str, by_datatype: dict[str, Backend]) -> None:
    value = b"1" if datatype == "BYTES" else 1
    tensor = np.full((2, 3), value, NUMPY_DTYPES[datatype])
    tensor.flags.writeable = False
    [output] = by_datatype[datatype].run([tensor])
    assert output.tolist() == tensor.tolist()


@pytest.mark.parametrize("datatype", ["FP32", "BF16", "BYTES"])
def test_inputs_may_be_slices(datatype: str, by_datatype: dict[str, Backend]) -> None:
    values = np.arange(24).reshape(4, 6)
    whole = values.astype("S2").astype(object) if datatype == "BYTES" else values
    tensor = whole.astype(NUMPY_DTYPES[datatype])[::2, ::2]
    [output] = by_datatype[datatype].run([tensor])
    assert output.tolist() == tensor.tolist()
    assert output.flags.c_contiguous


def test_inputs_and_outputs_stand_in_the_order_of_the_signature(
    open_identity: OpenIdentity,
) -> None:
    specs: Specs = {
        "zeta": ("FP32", (-1, 2)),
        "alpha": ("INT64", (-1,)),
        "mu": ("BYTES", (-1, 1)),
    }
    backend = open_identity(specs)
    assert backend.signature == Signature(
        tuple(TensorSpec(name, *spec) for name, spec in specs.items()),
        tuple(TensorSpec(f"{name}_out", *spec) for name, spec in specs.items()),
    )
    inputs: list[Tensor] = [
        np.ones((2, 2), np.float32),
        np.array([7, 8]),
        np.array([[b"a"], [b"b"]], np.object_),
    ]
    outputs = backend.run(inputs)
    assert [output.tolist() for output in outputs] == [tensor.tolist() for tensor in inputs]


def test_dimension_names_stand_beside_the_signature(open_identity: OpenIdentity) -> None:
    backend = open_identity({"a": ("FP32", (-1, 2)), "b": ("FP32", (-1, -1, 4)), "c": ("FP32", ())})
    for specs, names in (
        (backend.signature.inputs, backend.dimension_names.inputs),
        (backend.signature.outputs, backend.dimension_names.outputs),
    ):
        assert [len(of_tensor) for of_tensor in names] == [len(spec.shape) for spec in specs]
        for spec, of_tensor in zip(specs, names, strict=True):
            assert all(
                name is None or size == -1 for size, name in zip(spec.shape, of_tensor, strict=True)
            )
        assert names[0][0] == names[1][0], "rows of both tensors are the same rows"


def test_a_backend_has_a_platform(open_identity: OpenIdentity) -> None:
    assert open_identity({"x": ("FP32", (-1,))}).platform


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 3), np.float64),
        np.zeros((2, 3), np.int32),
        np.zeros((2, 4), np.float32),
        np.zeros((3,), np.float32),
        np.zeros((2, 3, 1), np.float32),
        np.array([[b"1", b"2", b"3"]], np.object_),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tensor.shape}",
)
def test_a_misfit_is_the_callers_fault(wrong: Tensor, by_datatype: dict[str, Backend]) -> None:
    with pytest.raises(InvalidModelInput):
        by_datatype["FP32"].run([wrong])


@pytest.mark.parametrize("datatype", ["BF16", "BYTES"])
def test_a_misfit_of_a_converted_input_is_too(
    datatype: str, by_datatype: dict[str, Backend]
) -> None:
    with pytest.raises(InvalidModelInput, match="'x'"):
        by_datatype[datatype].run([np.zeros((2, 3), np.float32)])


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_wrong_number_of_inputs_is_said(
    datatype: str, count: int, open_identity: OpenIdentity
) -> None:
    backend = open_identity({"a": (datatype, (-1,)), "b": (datatype, (-1,))})
    tensor = np.zeros(1, NUMPY_DTYPES[datatype])
    with pytest.raises(InvalidModelInput, match=f"the model takes 2 inputs, not {count}"):
        backend.run([tensor] * count)


@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "BF16"])
def test_threads_get_their_own_answers(datatype: str, by_datatype: dict[str, Backend]) -> None:
    backend = by_datatype[datatype]

    def ask(number: int) -> bool:
        value = str(number).encode() if datatype == "BYTES" else number
        tensor = np.full((2, 3), value, NUMPY_DTYPES[datatype])
        return bits(backend.run([tensor])[0]) == bits(tensor)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, itertools.islice(itertools.cycle(range(100)), 400)))
