"""What a caller is told about the features of a request."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from featurecache.definitions import Column, Entity, FeatureService, FeatureView, Float32, String
from featurecache.joining.assembly import ModelInput
from featurecache.joining.report import MAX_LISTED_ROWS, report
from featurecache.joining.resolve import ServicePlan
from featurecache.lookups.lookup_waiting import CORRUPT, UNREACHABLE
from tests.unit.features.feature_plans import (
    NOW_US,
    SECOND_US,
    complete,
    plan_of,
    row_of,
    texts,
)

AIRPORT = Entity("airport", keys={"origin": String})
WEATHER = FeatureView(
    "weather",
    entity=AIRPORT,
    columns=[Column("temp", Float32), Column("wind", Float32, default=0.0)],
    max_age="1h",
)


def _plan(*more: Any) -> ServicePlan:
    service = FeatureService("s", [*WEATHER.all(), *more])
    return plan_of(service, ModelInput("x", "FP32", (-1, -1)))


def _row(plan: ServicePlan, age_s: float = 60, **values: Any) -> bytes:
    given = {"temp": 1.0, "wind": 2.0} | values
    schema = plan.uses[0].spec.schema
    return row_of(schema, given, event_us=NOW_US - round(age_s * SECOND_US))


def _told(plan: ServicePlan, rows: list[bytes | None]) -> dict[str, Any]:
    names = [b"e%d" % i for i in range(len(rows))]
    store = {
        b"hr:p:{airport:%b}:weather" % name: row for name, row in zip(names, rows, strict=True)
    }
    filled = complete(plan, [texts(*names)], store)
    told: dict[str, Any] = msgspec.json.decode(report(plan, filled, NOW_US))
    return told


def test_all_is_well() -> None:
    plan = _plan()
    assert _told(plan, [_row(plan), _row(plan, 90.5)]) == {
        "defaulted_fraction": 0.0,
        "views": {"weather": {"status": {"PRESENT": 2}, "worst_age_s": 90.5}},
    }


def test_every_status() -> None:
    plan = _plan()
    rows = [None, UNREACHABLE, CORRUPT, _row(plan, 3601), _row(plan, temp=None)]
    assert _told(plan, rows) == {
        "defaulted_fraction": 0.8,
        "views": {
            "weather": {
                "status": {"PRESENT": 1, "MISSING": 1, "STALE": 1, "DEFAULTED": 1, "ERROR": 1},
                "worst_age_s": 60.0,  # of the row that was used
                "rows": ["MISSING", "DEFAULTED", "ERROR", "STALE", "PRESENT"],
                "nulls": {"temp": 1},
            }
        },
    }


def test_no_row_was_used() -> None:
    assert _told(_plan(), [None])["views"]["weather"]["worst_age_s"] is None


@pytest.mark.parametrize(
    ("event_us", "age_s"),
    [
        (-SECOND_US, NOW_US / SECOND_US + 1),  # before 1970
        (0, NOW_US / SECOND_US),  # 1970 itself
        (NOW_US + SECOND_US, 0.0),  # a clock that is ahead
        (NOW_US - 1, 1e-06),
    ],
)
def test_ages_of_odd_times(event_us: int, age_s: float) -> None:
    view = FeatureView("weather", entity=AIRPORT, columns=[Column("temp", Float32)])
    plan = plan_of(FeatureService("s", view.all()), ModelInput("x", "FP32", (-1, 1)))
    row = row_of(plan.uses[0].spec.schema, {"temp": 1}, event_us=event_us)
    for rows in ([row], [row, row], [None, row]):
        told = _told(plan, list(rows))["views"]["weather"]
        assert told["worst_age_s"] == pytest.approx(age_s)


def test_nulls_that_were_filled_are_still_told() -> None:
    plan = _plan()
    rows = [_row(plan, wind=None), _row(plan, temp=None, wind=None)]
    told = _told(plan, list(rows))
    assert told["views"]["weather"]["nulls"] == {"temp": 1, "wind": 2}
    assert told["defaulted_fraction"] == 0.0


def test_one_view_asked_twice() -> None:
    plan = _plan(WEATHER.by(origin="dest")["temp"])
    filled = complete(plan, [texts(b"a"), texts(b"b")], {b"hr:p:{airport:b}:weather": _row(plan)})
    told = msgspec.json.decode(report(plan, filled, NOW_US))
    assert told["views"]["weather"]["status"] == {"MISSING": 1}
    assert told["views"]["weather(origin=dest)"]["status"] == {"PRESENT": 1}
    assert told["defaulted_fraction"] == pytest.approx(2 / 3, abs=1e-6)


def test_long_requests_are_counted_and_not_listed() -> None:
    told = _told(_plan(), [None] * (MAX_LISTED_ROWS + 5))["views"]["weather"]
    assert told["status"] == {"MISSING": MAX_LISTED_ROWS + 5}
    assert len(told["rows"]) == MAX_LISTED_ROWS


def test_no_rows() -> None:
    assert _told(_plan(), []) == {
        "defaulted_fraction": 0.0,
        "views": {"weather": {"status": {}, "worst_age_s": None}},
    }
