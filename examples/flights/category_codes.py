"""Names of carriers and airports as whole numbers.

Decides the code of each name: its place in the alphabetical list of the names seen in the training
months. It must never look at an outcome, so that a code carries no answer, and it must never guess:
a name that was not seen has the code -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from examples.flights.flight_log import Ints, Words

UNSEEN = -1


@dataclass(frozen=True)
class CategoryCodes:
    """For each category (``carrier``, ``origin``, ``dest``) the code of each name."""

    codes: Mapping[str, Mapping[str, int]]

    def encode(self, category: str, names: Words) -> Ints:
        """The codes of ``names``, int64 [N]; -1 for a name that training has not seen."""
        codes = self.codes[category]
        return np.fromiter((codes.get(name, UNSEEN) for name in names), np.int64, len(names))


def fit_codes(names: Mapping[str, Words], seen: npt.NDArray[np.bool_]) -> CategoryCodes:
    """Codes for the names in those rows that ``seen`` marks."""
    return CategoryCodes(
        {
            category: {name: code for code, name in enumerate(sorted(set(column[seen])))}
            for category, column in names.items()
        }
    )
