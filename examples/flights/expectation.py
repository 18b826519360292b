"""What the gateway has to answer: the model's own output on rows that the training-set builder makes.

Decides that the same question is put to the offline side: the same flights, the same moments, the rows that were known
by then. It must never ask the gateway or the store.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from examples.flights.bundle import Bundle
from examples.flights.inputs import Rows, read_inputs, write_inputs
from examples.flights.place import Headrace
from examples.flights.replay import write_spine
from examples.flights.trees import Floats, probabilities


def offline_inputs(
    headrace: Headrace, flights: pd.DataFrame, asked_s: Mapping[int, float]
) -> dict[int, Rows]:
    """The model's inputs for ``flights``, float32 [N, F], for each key of ``asked_s``, at its second since 1970.

    Raises ``CommandFailedError``.
    """
    place = headrace.place
    spine, out = place.replay / "asked.parquet", place.replay / "offline.parquet"
    write_spine(flights, asked_s, spine)
    write_inputs(headrace, spine, place.replay / "tables", out)
    _, rows = read_inputs(out)
    return dict(zip(asked_s, np.split(rows, len(asked_s)), strict=True))


def offline_chances(bundle: Bundle, rows: Rows) -> dict[int, Floats]:
    """What LightGBM itself says for ``rows`` [N, F], by version, float64 [N] each."""
    versions = [one.version for one in bundle.describe().versions]
    return {one: probabilities(bundle.load_trees(one), rows) for one in versions}
