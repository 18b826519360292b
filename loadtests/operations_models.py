"""Decides which model the operations rows serve, and how a new version of it comes into the repository.

`trees` is what gradient boosting leaves behind: hundreds of trees in one operator, so that loading it takes a part of
a second and running it some tens of microseconds a row. The splits come from a seed. It must never leave a version
half written where a server can see it.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from loadtests import models

TREES = "trees"
TREE_COUNT, DEPTH = 1000, 6
ROWS = 8
"""In every call: some hundred microseconds of work, so that a client in Python keeps up with half of the capacity."""
VARIANTS = 2
"""Different weights, so that every reload really brings something else."""

_IR_VERSION, _OPSET, _ML_OPSET = 10, 18, 3


class TreesRepository:
    """A repository of its own, with the model of this page in version 1."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "operations-models"
        self._stage = folder / "operations-stage"
        self._loads = 0
        self._newest = 1

    def write(self, loads: int = 0) -> None:
        """From nothing: version 1, and every variant beside the repository.

        An odd number of `loads` that came before makes the first one bring a new number.
        """
        for old in (self.root, self._stage):
            shutil.rmtree(old, ignore_errors=True)
        self._stage.mkdir(parents=True)
        for variant in range(VARIANTS):
            (self._stage / f"{variant}.onnx").write_bytes(_trees(variant).SerializeToString())
        self._loads, self._newest = loads, 1
        self._place(1)

    def next_version(self) -> str:
        """Put other files in place: of the newest number and of a new one in turn; which number it was."""
        self._loads += 1
        if self._loads % 2 == 0:
            self._newest += 1
        self._place(self._newest)
        return str(self._newest)

    @property
    def model_file(self) -> Path:
        """What is served now."""
        return self.root / TREES / str(self._newest) / "model.onnx"

    def _place(self, number: int) -> None:
        source = self._stage / f"{self._loads % VARIANTS}.onnx"
        version = self._stage / str(number)
        version.mkdir()
        shutil.copyfile(source, version / "model.onnx")
        target = self.root / TREES / str(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            os.replace(version / "model.onnx", target / "model.onnx")
            version.rmdir()
        else:
            version.rename(target)


def _trees(seed: int) -> onnx.ModelProto:
    """Complete binary trees over the features that all models of the bench take."""
    inner, nodes = 2**DEPTH - 1, 2 ** (DEPTH + 1) - 1
    random = np.random.default_rng(100 + seed)
    one = np.arange(nodes)
    is_leaf = one >= inner
    children = np.where(is_leaf, 0, 2 * one + 1)
    tree_ids = np.repeat(np.arange(TREE_COUNT), nodes)
    leaves = one[is_leaf]
    thresholds = random.random((TREE_COUNT, nodes), dtype=np.float32)
    features = random.integers(models.FEATURES, size=(TREE_COUNT, nodes))
    weights = random.standard_normal(TREE_COUNT * len(leaves)) / TREE_COUNT
    node = helper.make_node(
        "TreeEnsembleRegressor",
        [models.INPUT],
        [models.OUTPUT],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=tree_ids.tolist(),
        nodes_nodeids=np.tile(one, TREE_COUNT).tolist(),
        nodes_featureids=np.where(is_leaf, 0, features).ravel().tolist(),
        nodes_values=np.where(is_leaf, 0, thresholds).ravel().tolist(),
        nodes_modes=np.tile(np.where(is_leaf, "LEAF", "BRANCH_LEQ"), TREE_COUNT).tolist(),
        nodes_truenodeids=np.tile(children, TREE_COUNT).tolist(),
        nodes_falsenodeids=np.tile(np.where(is_leaf, 0, children + 1), TREE_COUNT).tolist(),
        target_treeids=np.repeat(np.arange(TREE_COUNT), len(leaves)).tolist(),
        target_nodeids=np.tile(leaves, TREE_COUNT).tolist(),
        target_ids=[0] * (TREE_COUNT * len(leaves)),
        target_weights=weights.tolist(),
    )
    shape: list[str | int | None] = ["batch", models.FEATURES]
    graph = helper.make_graph(
        [node],
        TREES,
        [helper.make_tensor_value_info(models.INPUT, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(models.OUTPUT, TensorProto.FLOAT, ["batch", 1])],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return model
