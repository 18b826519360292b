"""The repositories that the end-to-end suites serve: small models whose right answers are easy to say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.support import models

DATATYPES = tuple(models.ELEMENT_TYPES)

SLOW_WIDTH = 64
SLOW_TURNS = 100_000
"""About 0.3 s a batch on the machines of 2024."""
SNAIL_TURNS = 8 * SLOW_TURNS
BLOB_FLOATS = 256 * 1024

SLOW_TOML = """
[batching]
mode = "always"
max_batch_size = 8
{batching}
[execution]
inline = "never"
[warmup]
enabled = false
[onnxruntime]
intra_op_threads = 1
{more}
"""


def write_protocol_models(root: Path) -> None:
    """One model for each thing that the protocol can say."""
    for datatype in DATATYPES:
        models.write_model(root, f"identity_{datatype.lower()}", models.identity(datatype))
    models.write_model(root, "simple", models.add_two_inputs())
    models.write_model(root, "linear", models.linear(), toml="[priority]\nlevels = 4\n")
    models.write_model(root, "mixed", models.mixed_inputs())
    models.write_model(root, "three_outputs", models.multi_output())
    models.write_model(root, "logarithm", models.logarithm())
    models.write_model(root, "embedding", models.embedding())
    models.write_model(
        root,
        "small_batches",
        models.identity(),
        toml='[batching]\nmode = "always"\nmax_batch_size = 4\n',
    )
    models.write_model(root, "unbatched", models.cumulative_sum())
    free = ("rows", "columns")
    models.write_model(
        root, "any_shape", models.identity("FP32", free), toml='[batching]\nmode = "never"\n'
    )
    models.write_model(
        root, "any_text", models.identity("BYTES", free), toml='[batching]\nmode = "never"\n'
    )
    models.write_model(root, "wide", models.identity("FP32", ("n", "width")))
    models.write_model(root, "one_text", models.identity("BYTES", ("n", 1)))
    versioned = '[versions]\npolicy = "all"\n'
    models.write_model(root, "versioned", plus(1.0), version=1, toml=versioned)
    models.write_model(root, "versioned", plus(3.0), version=3)
    broken = root / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"this is not a model")


def write_stress_models(root: Path) -> None:
    """Quick, slow and talkative models for the suites about abuse, deadlines and stopping."""
    models.write_model(root, "linear", models.linear())
    models.write_model(root, "identity", models.identity())
    models.write_model(root, "wide", models.identity("FP32", ("n", "width")))
    models.write_model(root, "any_text", models.identity("BYTES", ("n", "width")))
    models.write_model(root, "embedding", models.embedding())
    write_slow(root, "slow")
    models.write_model(root, "blob", blob(), toml="[batching]\nmax_batch_size = 4\n")


def write_slow(
    root: Path, name: str, *, turns: int = SLOW_TURNS, batching: str = "", more: str = ""
) -> None:
    """A model that takes its time, off the event loop; ``batching`` and ``more`` are lines of TOML."""
    toml = SLOW_TOML.format(batching=batching, more=more)
    models.write_model(root, name, slow(turns), toml=toml)


def plus(constant: float, features: int = 4) -> bytes:
    """``y = x + constant``: tells versions apart."""
    shape = ("n", features)
    return models.graph(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        {"x": ("FP32", shape)},
        {"y": ("FP32", shape)},
        {"c": np.array([constant], np.float32)},
    )


def slow(turns: int, width: int = SLOW_WIDTH) -> bytes:
    """Each row turned left ``turns`` times, by one product with a permutation after the other."""
    carried = ("FP32", ("n", width))
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["row", "left"], ["next_row"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn_number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", width]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next_row", TensorProto.FLOAT, ["n", width]),
        ],
    )
    constants = {
        "turns": np.array(turns),
        "go": np.array(True),
        "left": np.eye(width, dtype=np.float32)[np.roll(np.arange(width), 1)],
    }
    loop = helper.make_node("Loop", ["turns", "go", "x"], ["y"], body=body)
    return models.graph([loop], {"x": carried}, {"y": carried}, constants)


def slow_row(first: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A row for ``slow`` that counts up from ``first``."""
    return np.arange(first, first + SLOW_WIDTH, dtype=np.float32).reshape(1, SLOW_WIDTH)


def slow_answer(
    row: np.ndarray[tuple[int, ...], np.dtype[np.float32]], turns: int = SLOW_TURNS
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """What ``slow`` makes of these rows, exactly."""
    return np.roll(row, -turns % row.shape[1], axis=1)


def blob(floats: int = BLOB_FLOATS) -> bytes:
    """One number in, ``floats`` copies of it out: a small request with a large answer."""
    return models.graph(
        [
            helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
            helper.make_node("Concat", ["rows", "floats"], ["shape"], axis=0),
            helper.make_node("Expand", ["x", "shape"], ["y"]),
        ],
        {"x": ("FP32", ("n", 1))},
        {"y": ("FP32", ("n", floats))},
        {"floats": np.array([floats])},
    )
