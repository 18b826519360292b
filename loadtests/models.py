"""Decides which ONNX models the bench serves, and proves that they are what they claim.

`tiny` is so cheap that the serving around it is what gets measured. `heavy` costs the same for
every row however many are batched, so capacity is a fixed number of rows a second and no server
can earn goodput by batching. The weights come from a seed. It must never fetch a model.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]
from onnx import TensorProto, helper, numpy_helper

from loadtests.failures import BenchError

FEATURES = 32
TINY, HEAVY = "tiny", "heavy"
INPUT, OUTPUT = "input", "output"

_HIDDEN = 64
# Each heavy row is spread to a matrix of its own: even one row is a full matrix product, so a
# batch of sixteen has no better arithmetic than sixteen batches of one.
_SPREAD, _WIDTH, _LAYERS = 128, 512, 4
# Old enough for every ONNX Runtime that is still in use.
_IR_VERSION, _OPSET = 10, 18

Floats = npt.NDArray[np.float32]


def write_repository(root: Path) -> Path:
    """Writes `<root>/<model>/1/model.onnx` for both models and returns the root."""
    for name, model in ((TINY, _tiny()), (HEAVY, _heavy())):
        path = model_path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString())
    return root


def model_path(root: Path, name: str) -> Path:
    """Where a repository keeps the one version of a model."""
    return root / name / "1" / "model.onnx"


def sample_rows(count: int = 1) -> Floats:
    """The rows that every request carries, the same in each run."""
    return np.random.default_rng(11).random((count, FEATURES), dtype=np.float32)


def session(path: Path) -> ort.InferenceSession:
    """One thread, as all compared servers run it: they have one core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def expected_answer(path: Path) -> float:
    """What a server must answer to the sample row."""
    (output,) = session(path).run([OUTPUT], {INPUT: sample_rows()})
    return float(output[0, 0])


def row_cost_ms(path: Path, sizes: tuple[int, ...] = (1, 4, 16)) -> dict[int, float]:
    """Milliseconds per row at each batch size: the quickest of some runs, since neighbours only slow them down."""
    model, costs = session(path), {}
    for size in sizes:
        rows, times = sample_rows(size), []
        for _ in range(24):
            before = time.perf_counter()
            model.run([OUTPUT], {INPUT: rows})
            times.append((time.perf_counter() - before) * 1000 / size)
        costs[size] = min(times[4:])
    return costs


def check_heavy(costs: dict[int, float], least_ms: float = 1.0, spread: float = 0.15) -> None:
    """Refuses a heavy model that is too light, or cheaper per row in a batch."""
    alone = costs[min(costs)]
    if alone < least_ms:
        raise BenchError(f"the heavy model takes {alone:.2f} ms a row, below {least_ms} ms")
    for size, cost in costs.items():
        if cost < alone * (1 - spread):
            raise BenchError(
                f"a batch of {size} costs {cost:.2f} ms a row, alone it is {alone:.2f} ms: "
                "batching would change the capacity that the open loop is measured against"
            )


def _tiny() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", [INPUT, "w0"], ["m0"]),
        helper.make_node("Add", ["m0", "b0"], ["a0"]),
        helper.make_node("Relu", ["a0"], ["h0"]),
        helper.make_node("MatMul", ["h0", "w1"], [OUTPUT]),
    ]
    weights = {
        "w0": _weights(1, FEATURES, _HIDDEN),
        "b0": _weights(2, _HIDDEN),
        "w1": _weights(3, _HIDDEN, 1),
    }
    return _model(TINY, nodes, weights)


def _heavy() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Unsqueeze", [INPUT, "axis"], ["row"]),
        helper.make_node("Mul", ["row", "spread"], ["matrix"]),
        helper.make_node("MatMul", ["matrix", "w0"], ["h0"]),
    ]
    weights: dict[str, npt.NDArray[np.generic]] = {
        "axis": np.array([1], np.int64),
        "inner_axes": np.array([1, 2], np.int64),
        "spread": _weights(4, 1, _SPREAD, 1),
        "w0": _weights(5, FEATURES, _WIDTH),
    }
    for layer in range(1, _LAYERS + 1):
        weights[f"w{layer}"] = _weights(5 + layer, _WIDTH, _WIDTH)
        nodes.append(helper.make_node("MatMul", [f"h{layer - 1}", f"w{layer}"], [f"h{layer}"]))
    nodes += [
        helper.make_node("ReduceMean", [f"h{_LAYERS}", "inner_axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], [OUTPUT]),
    ]
    return _model(HEAVY, nodes, weights)


def _weights(seed: int, *shape: int) -> Floats:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    # Scaled so that values stay near 1 through the layers: denormals would cost extra time.
    return np.asarray(values / np.sqrt(shape[0]), dtype=np.float32)


def _model(
    name: str, nodes: list[onnx.NodeProto], weights: Mapping[str, npt.NDArray[np.generic]]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(values, key) for key, values in weights.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return model
