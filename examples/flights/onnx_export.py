"""The trees as an ONNX graph with one input, one output and one meaning.

Decides the graph that is served: ``features`` FP32 [batch, F] in, ``late_probability`` FP32 [batch,
1] out. It must never change a score by more than the rounding of its last float32 digit, and a
row's score must never depend on the rows beside it.

onnxmltools converts a binary classifier to a node that also answers a label nobody asked for and
adds up the leaves in float32, in an order that depends on how the rows of a batch are shared among
threads. The same trees are therefore put into a regressor that adds in float64. Splits and leaves
stay float32, as the standard's converter wrote them; that loses nothing as long as no split moves,
and a model where one would is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxmltools
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.common.data_types import FloatTensorType

INPUT = "features"
OUTPUT = "late_probability"
BATCH = "batch"

_OPSET = 15
_TREES_OPSET = 3  # the first with float64 trees
_IR_VERSION = 8


class SplitMovesError(Exception):
    """A split of the trees has no float32 that separates the same inputs."""


def to_onnx(trees: lightgbm.Booster) -> onnx.ModelProto:
    """The graph of ``trees``. Raises ``SplitMovesError``."""
    _check_splits(trees)
    width = trees.num_feature()
    converted = onnxmltools.convert_lightgbm(
        trees,
        initial_types=[(INPUT, FloatTensorType([None, width]))],
        zipmap=False,
        target_opset=_OPSET,
    )
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [INPUT], ["exact"], to=TensorProto.DOUBLE),
            _regressor(converted, "exact", "log_odds"),
            helper.make_node("Sigmoid", ["log_odds"], ["probability"]),
            helper.make_node("Cast", ["probability"], [OUTPUT], to=TensorProto.FLOAT),
        ],
        name="flights",
        inputs=[helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH, width])],
        outputs=[helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH, 1])],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _TREES_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def _regressor(converted: onnx.ModelProto, source: str, target: str) -> onnx.NodeProto:
    """The converter's classifier as a regressor that answers the sum of the leaves in float64."""
    (classifier,) = (
        node for node in converted.graph.node if node.op_type.startswith("TreeEnsemble")
    )
    said = {given.name: helper.get_attribute_value(given) for given in classifier.attribute}
    attributes: dict[str, Any] = {
        name: value
        for name, value in said.items()
        if name.startswith("nodes_") and name not in {"nodes_values", "nodes_hitrates"}
    }
    return helper.make_node(
        "TreeEnsembleRegressor",
        [source],
        [target],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        nodes_values_as_tensor=_doubles("nodes_values_as_tensor", said["nodes_values"]),
        target_ids=[0] * len(said["class_ids"]),
        target_nodeids=said["class_nodeids"],
        target_treeids=said["class_treeids"],
        target_weights_as_tensor=_doubles("target_weights_as_tensor", said["class_weights"]),
        **attributes,
    )


def _doubles(name: str, values: list[float]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.float64), name)


def _check_splits(trees: lightgbm.Booster) -> None:
    """Rows go left when ``value <= split``: a split that rounds up could take a value along."""
    splits = np.array(list(_splits(trees)), dtype=np.float64)
    moved = splits[splits.astype(np.float32) > splits]
    if len(moved):
        raise SplitMovesError(
            f"{len(moved)} of {len(splits)} splits round up, the first {moved[0]!r}"
        )


def _splits(trees: lightgbm.Booster) -> Iterator[float]:
    waiting = [tree["tree_structure"] for tree in trees.dump_model()["tree_info"]]
    while waiting:
        node = waiting.pop()
        if "threshold" in node:
            yield node["threshold"]
            waiting += [node["left_child"], node["right_child"]]
