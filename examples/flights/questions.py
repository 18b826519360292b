"""The flights that the demo asks about, and the answers it expects of each version.

Decides which flights those are: a seeded choice from the months after training, made without a look
at what became of them. It must never take the expected answers from the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from examples.flights.bundle import Bundle, current_recipe
from examples.flights.features import Floats, Rows
from examples.flights.flight_log import Flags, Ints
from examples.flights.train import Year, read_year, train_models
from examples.flights.trees import DESIGNS, probabilities

_SEED = 2013
_FLIGHTS = 5_000
_SHARES = (0.02, 0.25, 0.5, 0.7, 0.85, 0.93, 0.97, 0.995)


@dataclass(frozen=True)
class Questions:
    """Flights by their position in the year, int64 [N]; their inputs, float32 [N, F]; LightGBM's
    probabilities for them by version, float64 [N] each.
    """

    year: Year
    position: Ints
    rows: Rows
    by_version: Mapping[int, Floats]

    @property
    def expected(self) -> Floats:
        """Of the newest version, which answers where none is named."""
        return self.by_version[max(self.by_version)]

    @property
    def late(self) -> Flags:
        """What became of them, bool [N]."""
        return self.year.log.late[self.position]

    def from_low_to_high_risk(self) -> list[int]:
        """Eight of them, spread over the expected probabilities."""
        rising = np.argsort(self.expected, kind="stable")
        return [int(rising[int(share * len(rising))]) for share in _SHARES]


def prepare_questions(bundle: Bundle, *, say_current: str) -> Questions:
    """Train if there is no model of this data and code, else print ``say_current``; then choose.

    Raises ``DataMissingError`` and ``ScoresDifferError``.
    """
    recipe = current_recipe()
    description = bundle.current(recipe)
    year = read_year(description.category_codes if description else None)
    if description:
        print(say_current)
    else:
        train_models(bundle, year, recipe)
    unseen = np.flatnonzero(year.unseen)
    position = np.random.default_rng(_SEED).choice(unseen, _FLIGHTS, replace=False)
    rows = year.rows[position]
    by_version = {
        design.version: probabilities(bundle.load_trees(design.version), rows) for design in DESIGNS
    }
    return Questions(year, position, rows, by_version)
