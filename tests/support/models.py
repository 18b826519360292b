"""Small ONNX models, built on the spot, and repositories of them.

Each function returns the bytes of a ``model.onnx``. Where a docstring says "mixes rows", the
model's answer to one row depends on the other rows of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 10

Dimension: TypeAlias = int | str | None
"""A fixed size, the name of a variable size, or a variable size without a name."""

ELEMENT_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}


def write_model(
    root: Path, name: str, model: bytes, version: int | str = 1, toml: str | None = None
) -> Path:
    """Put a model where a repository has it; the path of its file."""
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    if toml is not None:
        (root / name / "model.toml").write_text(toml, encoding="utf-8")
    path = folder / "model.onnx"
    path.write_bytes(model)
    return path


# ---- models that behave --------------------------------------------------------------------------


def linear(features: int = 32, outputs: int = 1, seed: int = 0) -> bytes:
    """``y[n, outputs] = x[n, features] · w + b``: the tiny model of benches and tests."""
    random = np.random.default_rng(seed)
    weights = {"w": _normal(random, features, outputs), "b": _normal(random, outputs)}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    return graph(nodes, {"x": ("FP32", ("n", features))}, {"y": ("FP32", ("n", outputs))}, weights)


def mlp(features: int = 32, hidden: int = 64, outputs: int = 2, seed: int = 0) -> bytes:
    """Two layers with ReLU, then softmax over each row."""
    random = np.random.default_rng(seed)
    weights = {
        "w1": _normal(random, features, hidden),
        "b1": _normal(random, hidden),
        "w2": _normal(random, hidden, outputs),
        "b2": _normal(random, outputs),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Gemm", ["h2", "w2", "b2"], ["h3"]),
        helper.make_node("Softmax", ["h3"], ["y"], axis=1),
    ]
    return graph(nodes, {"x": ("FP32", ("n", features))}, {"y": ("FP32", ("n", outputs))}, weights)


def identity(datatype: str = "FP32", shape: Sequence[Dimension] = ("n", 4)) -> bytes:
    """``y = x`` for any datatype of the protocol."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return graph(nodes, {"x": (datatype, shape)}, {"y": (datatype, shape)})


def add_two_inputs(width: int = 16) -> bytes:
    """The "simple" model of Triton's examples: the sum and the difference of two INT32 inputs."""
    shape = ("n", width)
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    return graph(
        nodes,
        {"INPUT0": ("INT32", shape), "INPUT1": ("INT32", shape)},
        {"OUTPUT0": ("INT32", shape), "OUTPUT1": ("INT32", shape)},
    )


def multi_output(features: int = 4) -> bytes:
    """Three outputs of three datatypes: FP32 ``total``, INT64 ``label``, BOOL ``positive``."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1),
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
    ]
    outputs = {
        "total": ("FP32", ("n", 1)),
        "label": ("INT64", ("n",)),
        "positive": ("BOOL", ("n", 1)),
    }
    constants = {"axes": np.array([1]), "zero": np.zeros(1, np.float32)}
    return graph(nodes, {"x": ("FP32", ("n", features))}, outputs, constants)


def mixed_inputs() -> bytes:
    """A string, a number and a flag for each row, all handed back: ``name_out`` and so on."""
    specs: dict[str, tuple[str, Sequence[Dimension]]] = {
        "name": ("BYTES", ("n", 1)),
        "amount": ("FP64", ("n", 1)),
        "flag": ("BOOL", ("n", 1)),
    }
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in specs]
    return graph(nodes, specs, {f"{name}_out": spec for name, spec in specs.items()})


def slow_matmul(cost: int = 16, width: int = 256) -> bytes:
    """``cost`` products of each row with a ``width`` × ``width`` matrix: time linear in rows."""
    # Orthogonal, so that values neither vanish nor explode on their way.
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]
    nodes = [
        helper.make_node("MatMul", [f"h{step}" if step else "x", "w"], [f"h{step + 1}"])
        for step in range(cost)
    ]
    nodes.append(helper.make_node("Identity", [f"h{cost}" if cost else "x"], ["y"]))
    shape = ("n", width)
    weights = {"w": matrix.astype(np.float32)}
    return graph(nodes, {"x": ("FP32", shape)}, {"y": ("FP32", shape)}, weights)


def embedding(vocabulary: int = 100, width: int = 4) -> bytes:
    """INT64 ``ids[n, length]`` to vectors; an id outside the vocabulary is the caller's mistake."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["vectors"])]
    table = np.arange(vocabulary * width, dtype=np.float32).reshape(vocabulary, width)
    inputs = {"ids": ("INT64", ("n", "length"))}
    return graph(nodes, inputs, {"vectors": ("FP32", ("n", "length", width))}, {"table": table})


def logarithm(features: int = 4) -> bytes:
    """NaN for every negative number."""
    return _of_x([helper.make_node("Log", ["x"], ["y"])], features)


def bfloat16_to_float(features: int = 4) -> bytes:
    """BF16 in, FP32 out."""
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    return graph(nodes, {"x": ("BF16", ("n", features))}, {"y": ("FP32", ("n", features))})


def shrinking_image(kernel: int = 5) -> bytes:
    """A convolution over images of any size from ``kernel`` × ``kernel`` up, then their mean."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("ReduceMean", ["h", "axes"], ["y"], keepdims=0),
    ]
    weights = {"w": np.ones((1, 1, kernel, kernel), np.float32), "axes": np.array([2, 3])}
    inputs = {"x": ("FP32", ("n", 1, "height", "width"))}
    return graph(nodes, inputs, {"y": ("FP32", ("n", 1))}, weights)


# ---- models whose rows must not be mixed ---------------------------------------------------------


def normalise_over_batch(features: int = 4) -> bytes:
    """``x - mean(x, axis 0)``: mixes rows."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return _of_x(nodes, features, {"axes": np.array([0])})


def reduce_over_batch(features: int = 4) -> bytes:
    """The mean row, declared as if there were one for each row of input."""
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)]
    return _of_x(nodes, features, {"axes": np.array([0])}, output_rows=None)


def maximum_over_batch(features: int = 4) -> bytes:
    """``x`` plus the largest row: mixes rows, with the right shape."""
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["largest"], keepdims=1),
        helper.make_node("Add", ["x", "largest"], ["y"]),
    ]
    return _of_x(nodes, features, {"axes": np.array([0])})


def cumulative_sum(features: int = 4) -> bytes:
    """The running sum along axis 0: mixes rows."""
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["y"])]
    return _of_x(nodes, features, {"axis": np.array(0)})


def row_number(features: int = 4) -> bytes:
    """``x`` plus the position of the row in the batch: mixes rows."""
    nodes = [
        helper.make_node("CumSum", ["ones_like", "axis"], ["position"]),
        helper.make_node("Add", ["x", "position"], ["y"]),
    ]
    ones = [
        helper.make_node("Mul", ["x", "zero"], ["zeros_like"]),
        helper.make_node("Add", ["zeros_like", "one"], ["ones_like"]),
    ]
    constants = {
        "axis": np.array(0),
        "zero": np.zeros(1, np.float32),
        "one": np.ones(1, np.float32),
    }
    return _of_x(ones + nodes, features, constants)


def softmax_over_sequence(features: int = 4) -> bytes:
    """The first dimension is a sequence: softmax along it mixes rows."""
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    return _of_x(nodes, features, rows="sequence", output_rows="sequence")


def scrambled_columns() -> bytes:
    """Transposes and reshapes back: mixes rows, but not while the other dimension is 1."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0]),
        helper.make_node("Reshape", ["turned", "shape"], ["y"]),
    ]
    shape = ("n", "width")
    return graph(nodes, {"x": ("FP32", shape)}, {"y": ("FP32", shape)})


def fixed_output_rows(features: int = 4) -> bytes:
    """One row of output for any number of rows."""
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)]
    return _of_x(nodes, features, {"axes": np.array([0])}, output_rows=1)


def scalar_output(features: int = 4) -> bytes:
    """One number for any number of rows."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)]
    return graph(nodes, {"x": ("FP32", ("n", features))}, {"y": ("FP32", ())})


def rows_and_table(width: int = 4) -> bytes:
    """Two inputs whose first dimensions have different names: ``n`` queries against ``m`` keys."""
    nodes = [helper.make_node("MatMul", ["queries", "keys"], ["scores"])]
    inputs = {"queries": ("FP32", ("n", width)), "keys": ("FP32", ("m", width, 1))}
    return graph(nodes, inputs, {"scores": ("FP32", (None, None, None))})


def random_answers(features: int = 4) -> bytes:
    """``x`` plus noise that differs from run to run."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    return _of_x(nodes, features)


def reshape_to(rows: int, features: int = 4) -> bytes:
    """Works with exactly ``rows`` rows, although its signature allows any number."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    return _of_x(nodes, features, {"shape": np.array([rows, features])})


def at_most_rows(limit: int, features: int = 4) -> bytes:
    """``y = x``, and a failure with more than ``limit`` rows."""
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Gather", ["table", "rows"], ["zero"]),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    return _of_x(nodes, features, {"table": np.zeros(limit + 1, np.float32)})


# ---- models that cannot be served ----------------------------------------------------------------


def sequence_output() -> bytes:
    """Its output is a sequence of tensors, which the protocol cannot carry."""
    value = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["n"])
    return _pack(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])], [_x("FP32", ["n"])], [value]
    )


def unknown_operator() -> bytes:
    """Uses an operator that does not exist."""
    return _of_x([helper.make_node("NoSuchOperator", ["x"], ["y"])], 4)


def future_opset() -> bytes:
    """Written for an operator set that no runtime knows yet."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    return _pack(nodes, values[:1], values[1:], opset=999)


def missing_external_data(features: int = 4) -> bytes:
    """Its weights lie in a file ``weights.bin`` that is not there."""
    model = onnx.load_from_string(linear(features))
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
    return model.SerializeToString()


# ---- building ------------------------------------------------------------------------------------


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[Dimension]]],
    outputs: Mapping[str, tuple[str, Sequence[Dimension]]],
    constants: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] | None = None,
) -> bytes:
    """A model of ``nodes``; inputs and outputs are named with datatype and shape."""
    return _pack(
        nodes,
        [_value(name, datatype, shape) for name, (datatype, shape) in inputs.items()],
        [_value(name, datatype, shape) for name, (datatype, shape) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )


def _of_x(
    nodes: Sequence[onnx.NodeProto],
    features: int,
    constants: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] | None = None,
    *,
    rows: Dimension = "n",
    output_rows: Dimension = "n",
) -> bytes:
    """FP32 ``x[n, features]`` to ``y`` of the same shape."""
    inputs = {"x": ("FP32", (rows, features))}
    return graph(nodes, inputs, {"y": ("FP32", (output_rows, features))}, constants)


def _value(name: str, datatype: str, shape: Sequence[Dimension]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[datatype], list(shape))


def _x(datatype: str, shape: Sequence[Dimension]) -> onnx.ValueInfoProto:
    return _value("x", datatype, shape)


def _normal(
    random: np.random.Generator, *shape: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return random.normal(size=shape).astype(np.float32)


def _pack(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = OPSET,
) -> bytes:
    proto = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(constants))
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
