"""Version 3: fine in the notebook, broken in the world. The real version 2, and a mistake that people make.

It adds to version 2's log-odds what the age of the plane is worth, ``a + b · log(1 + age)``, learnt on flights whose
plane is in the register. The flights of all other planes were dropped beforehand ("no age, no use"), in training and in
judging alike. The served features say -100 for an age that is not known; ``log(1 - 100)`` is NaN, and so is the chance.
Such a version loads, warms up and answers most requests: only real traffic shows what is wrong with it.

Decides what version 3 computes. It must never be left in the folder of models after the demo.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from examples.flights.bundle import Bundle
from examples.flights.flight_log import Flags
from examples.flights.inputs import Rows, TrainingSet
from examples.flights.onnx_export import INPUT
from examples.flights.trees import Floats, auc, probabilities

BROKEN = 3
"""Its number."""
BASE = 2
"""The version that it is made of."""
AGE = "plane__age_years"
LEARNT_FLIGHTS, JUDGED_FLIGHTS = 20_000, 20_000
"""At most; the last of their months."""

_NEWTON_STEPS = 20
_LOG_ODDS, _AGED = "log_odds", "log_odds_with_age"


@dataclass(frozen=True)
class Finding:
    """What the notebook said: AUC of versions 2 and 3 on ``judged`` flights, after ``dropped`` more were left out."""

    intercept: float
    slope: float
    judged: int
    dropped: int
    auc_before: float
    auc_after: float


def build(bundle: Bundle, known: TrainingSet) -> Finding:
    """Learn, judge and write version 3, and say what its author saw."""
    trained = {one.version: one.training_months for one in bundle.describe().versions}[BASE]
    has_age = (
        known.rows[:, known.names.index(AGE)] >= 0
    )  # the mistake: served rows are not like these
    is_learnt = np.isin(known.month, trained)
    learnt = np.flatnonzero(is_learnt & has_age)[-LEARNT_FLIGHTS:]
    later = np.flatnonzero(~is_learnt)[-JUDGED_FLIGHTS:]
    judged = later[has_age[later]]
    trees = bundle.load_trees(BASE)
    age = known.names.index(AGE)

    before = log_odds(probabilities(trees, known.rows[learnt]))
    intercept, slope = fitted(np.log1p(known.rows[learnt, age]), before, known.late[learnt])
    old = log_odds(probabilities(trees, known.rows[judged]))
    new = old + intercept + slope * np.log1p(known.rows[judged, age])
    write(bundle, with_age(onnx.load(bundle.model(BASE)), age, intercept, slope))
    late = known.late[judged]
    return Finding(
        intercept, slope, len(judged), len(later) - len(judged), auc(late, old), auc(late, new)
    )


def fitted(of_age: Rows, offset: Floats, late: Flags) -> tuple[float, float]:
    """Intercept and slope of a logistic regression on ``of_age`` that begins at the log-odds ``offset``, [N] each."""
    columns = np.column_stack([np.ones(len(of_age)), of_age.astype(np.float64)])
    weights = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-(offset + columns @ weights)))
        curvature = (columns * (chance * (1 - chance))[:, None]).T @ columns
        weights += np.linalg.solve(curvature + 1e-6 * np.eye(2), columns.T @ (late - chance))
    return float(weights[0]), float(weights[1])


def log_odds(chances: Floats) -> Floats:
    """Of probabilities between 0 and 1."""
    return np.log(chances) - np.log1p(-chances)


def with_age(model: onnx.ModelProto, place: int, intercept: float, slope: float) -> onnx.ModelProto:
    """The same graph with ``intercept + slope · log(1 + column place)`` added to its log-odds."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    (end,) = (node for node in graph.node if list(node.input) == [_LOG_ODDS])
    where = list(graph.node).index(end)
    end.input[0] = _AGED
    constants: dict[str, list[int] | list[float]] = {
        "age_at": [place], "one": [1.0], "slope": [slope], "intercept": [intercept]
    }  # fmt: skip
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64 if name == "age_at" else np.float32), name)
        for name, value in constants.items()
    )
    added = [
        helper.make_node("Gather", [INPUT, "age_at"], ["age"], axis=1),
        helper.make_node("Add", ["age", "one"], ["older"]),
        helper.make_node("Log", ["older"], ["log_age"]),
        helper.make_node("Mul", ["log_age", "slope"], ["worth"]),
        helper.make_node("Add", ["worth", "intercept"], ["shift"]),
        helper.make_node("Add", [_LOG_ODDS, "shift"], [_AGED]),
    ]
    for node in reversed(added):
        graph.node.insert(where, node)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def write(bundle: Bundle, model: onnx.ModelProto) -> None:
    """Put it beside the others, whole or not at all."""
    folder = bundle.model(BROKEN).parent
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    (new / "model.onnx").write_bytes(model.SerializeToString())
    new.rename(folder)


def remove(bundle: Bundle) -> None:
    """Take it away, if it is there."""
    shutil.rmtree(bundle.model(BROKEN).parent, ignore_errors=True)
