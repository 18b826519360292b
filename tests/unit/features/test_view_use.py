"""One view: what becomes of rows that are missing, old, unreadable, of another schema, or null."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import pytest

from featurecache.columns import parse_type
from featurecache.definitions import (
    Bool,
    Column,
    Entity,
    FeatureView,
    Float32,
    Int32,
    Int64,
    Project,
    String,
    Vector,
)
from featurecache.errors import UnfillableError
from featurecache.joining.view_use import ViewRead, ViewUse
from featurecache.lookups.lookup_waiting import CORRUPT, UNREACHABLE
from featurecache.manifests.compiling import compile_manifest
from featurecache.rows.schema import RowSchema
from featurecache.status import Status
from tests.unit.features.feature_plans import NOW_US, SECOND_US, row_of

ROUTE = Entity("route", keys={"origin": String, "dest": String})
TEMP, SKY = Column("temp", Float32), Column("sky", String, default="clear")
OLD = RowSchema([("temp", parse_type("float32")), ("gone", parse_type("int64"))])
ALIEN = row_of(RowSchema([("other", parse_type("int8"))]), {"other": 1})
FAULTS = {
    Status.MISSING: None,
    Status.DEFAULTED: UNREACHABLE,
    Status.ERROR: CORRUPT,
}
WHY = {
    Status.MISSING: "feature view 'weather' has no row for an entity of the request",
    Status.DEFAULTED: "feature view 'weather' could not be asked in time",
    Status.ERROR: "feature view 'weather' has a row that cannot be read",
    Status.STALE: "feature view 'weather' has only a row that is older than its max_age",
}


def _use(
    *columns: Column,
    used: list[str] | None = None,
    renamed: dict[str, str] | None = None,
    **view: Any,
) -> ViewUse:
    made = FeatureView("weather", entity=ROUTE, columns=columns or [TEMP, SKY], **view)
    manifest = compile_manifest([Project("p"), made])
    spec = msgspec.structs.replace(
        manifest.view("weather"), older=[[(name, str(type_)) for name, type_ in OLD.columns]]
    )
    names = used or [column.name for column in made.columns]
    return ViewUse(manifest, spec, renamed or {}, names)


def _row(use: ViewUse, age_s: float = 1, **values: Any) -> bytes:
    given = {"temp": 1.5, "sky": b"fog"} | values
    event_us = NOW_US - round(age_s * SECOND_US)
    return row_of(use.spec.schema, given, event_us=event_us)


def _statuses(read: ViewRead) -> list[Status]:
    assert read.statuses is not None
    return [Status(one) for one in read.statuses]


def _columns(read: ViewRead) -> list[list[Any]]:
    return [read.table.column("temp").tolist(), read.table.column("sky").tolist()]


def test_keys_of_a_view() -> None:
    use = _use(cache_ttl="1m")
    assert use.keys == ("origin", "dest")
    assert use.row_keys([b"JFK|LAX"]) == [b"hr:p:{route:JFK|LAX}:weather"]
    assert use.caching.cache_ttl_s == 60
    assert use.title == "weather"
    swapped = _use(renamed={"origin": "dest", "dest": "origin"})
    assert swapped.keys == ("dest", "origin")
    assert swapped.title == "weather(dest=origin,origin=dest)"


def test_good_rows_have_no_statuses() -> None:
    use = _use(max_age="3h")
    for rows in ([_row(use)], [_row(use), _row(use, temp=2)]):
        read = use.read(list(rows), (), NOW_US)
        assert (read.statuses, read.defaulted_rows, read.nulls) == (None, 0, {})
    assert _columns(read) == [[1.5, 2.0], [b"fog", b"fog"]]


@pytest.mark.parametrize("many", [False, True], ids=["one row", "beside a good one"])
@pytest.mark.parametrize("status", FAULTS)
def test_what_cannot_be_had_becomes_a_default(status: Status, many: bool) -> None:
    use = _use(max_age="3h")
    rows = [FAULTS[status], *([_row(use)] if many else [])]
    read = use.read(rows, (), NOW_US)
    assert _statuses(read) == [status, Status.PRESENT][: len(rows)]
    assert read.defaulted_rows == 1
    temp, sky = _columns(read)
    assert np.isnan(temp[0])
    assert sky[0] == b"clear"
    assert temp[1:] == [1.5][: len(rows) - 1]


@pytest.mark.parametrize("status", FAULTS)
def test_on_missing_fail(status: Status) -> None:
    use = _use(on_missing="fail")
    with pytest.raises(UnfillableError) as refused:
        use.read([_row(use), FAULTS[status]], (), NOW_US)
    assert str(refused.value) == f"{WHY[status]}, and must not be guessed"
    assert refused.value.status is status


@pytest.mark.parametrize("status", FAULTS)
def test_a_column_without_default_needs_its_row(status: Status) -> None:
    columns = [TEMP, Column("n", Int32), Column("s", String)]
    for used, named in ((["temp", "s", "n"], "s"), (["n", "temp"], "n")):
        use = _use(*columns, used=used)
        with pytest.raises(UnfillableError) as refused:
            use.read([FAULTS[status]], (), NOW_US)
        assert str(refused.value) == f"{WHY[status]}, and its column '{named}' has no default"
        assert refused.value.status is status
    # A column that the service does not use is nobody's need.
    assert _use(*columns, used=["temp"]).read([FAULTS[status]], (), NOW_US).defaulted_rows == 1


@pytest.mark.parametrize(
    "row", [ALIEN, b"\1" * 48, ALIEN[:8], b"x"], ids=["alien", "junk", "head", "x"]
)
def test_rows_of_unknown_schemas_are_errors(row: bytes) -> None:
    use = _use()
    read = use.read([row, _row(use)], (), NOW_US)
    assert _statuses(read) == [Status.ERROR, Status.PRESENT]


@pytest.mark.parametrize("extra_bytes", [-8, 8])
@pytest.mark.parametrize("columns", [(TEMP,), (TEMP, SKY)], ids=["fixed", "strings"])
def test_a_row_of_another_length_is_an_error_and_moves_no_other(
    columns: tuple[Column, ...], extra_bytes: int
) -> None:
    use = _use(*columns)
    good = row_of(use.spec.schema, {"temp": 1.5, "sky": b""})
    body = good[:-4].ljust(len(good) - 4 + extra_bytes, b"\0")[: len(good) - 4 + extra_bytes]
    odd = body + crc32(body).to_bytes(4, "little")
    may_be = extra_bytes > 0 and SKY in columns  # strings may be longer
    seen = Status.PRESENT if may_be else Status.ERROR
    read = use.read([odd, good], (), NOW_US)
    assert read.table.column("temp")[1] == 1.5
    assert read.statuses is None if may_be else _statuses(read) == [seen, Status.PRESENT]
    alone = use.read([odd], (), NOW_US)
    assert alone.statuses is None if may_be else _statuses(alone) == [seen]


# -- age ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize(
    ("age_s", "status"),
    [
        (0, Status.PRESENT),
        (3600, Status.PRESENT),
        (3600.000001, Status.STALE),
        (10**9, Status.STALE),
        (-5, Status.PRESENT),  # a clock that is ahead
        (-(10**9), Status.PRESENT),
        (NOW_US / SECOND_US + 1, Status.STALE),  # before 1970
    ],
)
def test_age(age_s: float, status: Status, others: int) -> None:
    use = _use(max_age="1h")
    read = use.read([_row(use, age_s), *[_row(use)] * others], (), NOW_US)
    found = [Status.PRESENT] if read.statuses is None else _statuses(read)
    assert found[0] is status
    assert read.defaulted_rows == (status is Status.STALE)


def test_without_max_age_nothing_is_old() -> None:
    use = _use()
    for event_us in (-(2**63), -1, 0, 2**63 - 1):
        row = row_of(use.spec.schema, {"temp": 1, "sky": b""}, event_us=event_us)
        assert use.read([row], (), NOW_US).statuses is None
        assert use.read([row, row], {0}, NOW_US).statuses is None
        read = use.read([row, None], (), NOW_US)
        assert _statuses(read) == [Status.PRESENT, Status.MISSING]


@pytest.mark.parametrize("event_us", [-(2**63), 2**63 - 1])
def test_times_at_the_ends_of_int64_have_an_age(event_us: int) -> None:
    use = _use(max_age="1h")
    row = row_of(use.spec.schema, {"temp": 1, "sky": b""}, event_us=event_us)
    for rows in ([row], [row, row]):
        read = use.read(list(rows), (), NOW_US)
        assert (read.statuses is None) == (event_us > 0)


def test_on_stale_use() -> None:
    use = _use(max_age="1h", on_stale="use", on_missing="fail")
    read = use.read([_row(use, 3601), _row(use)], (), NOW_US)
    assert _statuses(read) == [Status.STALE, Status.PRESENT]
    assert read.defaulted_rows == 0
    assert _columns(read)[0] == [1.5, 1.5]


def test_on_stale_fail() -> None:
    use = _use(max_age="1h", on_stale="fail")
    with pytest.raises(UnfillableError) as refused:
        use.read([_row(use), _row(use, 3601)], (), NOW_US)
    assert str(refused.value) == f"{WHY[Status.STALE]}, and must not be guessed"
    assert refused.value.status is Status.STALE
    assert use.read([None], (), NOW_US).defaulted_rows == 1  # missing is another matter


def test_stale_rows_and_columns_without_default() -> None:
    use = _use(Column("n", Int32), max_age="1h")
    row = row_of(use.spec.schema, {"n": 1}, event_us=NOW_US - 3601 * SECOND_US)
    with pytest.raises(UnfillableError, match="is older than its max_age, and its column 'n' has"):
        use.read([row], (), NOW_US)


@pytest.mark.parametrize("on_stale", ["default", "fail"])
def test_aged_copies_may_be_older_while_the_store_fails(on_stale: str) -> None:
    use = _use(max_age="1h", cache_ttl="1m", stale_if_error="30m", on_stale=on_stale)
    rows = [_row(use, 3000), _row(use, 5400)]
    read = use.read(list(rows), {0, 1}, NOW_US)
    assert _statuses(read) == [Status.PRESENT, Status.STALE]
    assert (read.defaulted_rows, _columns(read)[0]) == (0, [1.5, 1.5])
    beyond = _row(use, 5400.000001)
    for aged, row in (({0}, beyond), (set(), rows[1])):  # too old; or the store said so itself
        if on_stale == "fail":
            with pytest.raises(UnfillableError, match="must not be guessed"):
                use.read([row], aged, NOW_US)
        else:
            read = use.read([row], aged, NOW_US)
            assert (_statuses(read), read.defaulted_rows) == ([Status.STALE], 1)


# -- nulls ----------------------------------------------------------------------------------------


def test_nulls_become_defaults_and_are_said() -> None:
    use = _use(
        TEMP,
        SKY,
        Column("n", Int64, default=-1),
        Column("ok", Bool, default=True),
        Column("v", Vector(Float32, 2), default=[1, 2]),
    )
    nothing: dict[str, Any] = {"temp": None, "sky": None, "n": None, "ok": None, "v": None}
    rows = [row_of(use.spec.schema, nothing), _row(use, n=5, ok=False, v=[3, 4])]
    read = use.read(list(rows), (), NOW_US)
    assert (read.statuses, read.defaulted_rows) == (None, 0)
    assert np.isnan(read.table.column("temp")[0])
    assert read.table.column("sky").tolist() == [b"clear", b"fog"]
    assert read.table.column("n").tolist() == [-1, 5]
    assert read.table.column("ok").tolist() == [1, 0]
    assert read.table.column("v").tolist() == [[1, 2], [3, 4]]
    masks = {name: mask.tolist() for name, mask in read.nulls.items()}
    assert masks == {name: [True, False] for name in nothing}


def test_nulls_of_columns_that_nobody_uses() -> None:
    use = _use(
        TEMP, Column("n", Int32), Column("m", Int32, default=0), used=["temp", "m"], on_null="fail"
    )
    row = row_of(use.spec.schema, {"temp": 1, "n": None, "m": 2})
    assert use.read([row], (), NOW_US).nulls == {}


def test_on_null_fail() -> None:
    use = _use(on_null="fail")
    for name in ("temp", "sky"):
        with pytest.raises(UnfillableError) as refused:
            use.read([_row(use), _row(use, **{name: None})], (), NOW_US)
        assert str(refused.value) == f"feature 'weather.{name}' is null, and must not be guessed"
        assert refused.value.status is Status.NULL
    assert use.read([None], (), NOW_US).defaulted_rows == 1


def test_a_null_without_default() -> None:
    use = _use(TEMP, Column("n", Int32))
    with pytest.raises(UnfillableError, match=r"^feature 'weather.n' is null and has no default$"):
        use.read([row_of(use.spec.schema, {"temp": 1, "n": None})], (), NOW_US)


# -- older schemas --------------------------------------------------------------------------------


def test_rows_of_an_older_schema() -> None:
    use = _use(max_age="1h")
    young = row_of(OLD, {"temp": 7, "gone": 1})
    null = row_of(OLD, {"temp": None, "gone": 1})
    aged = row_of(OLD, {"temp": 8, "gone": 1}, event_us=NOW_US - 3601 * SECOND_US)
    read = use.read([young, _row(use), aged, null], (), NOW_US)
    assert _statuses(read) == [Status.PRESENT, Status.PRESENT, Status.STALE, Status.PRESENT]
    temp, sky = _columns(read)
    assert temp[:2] == [7, 1.5]
    assert np.isnan(temp[2:]).all()
    assert sky == [b"clear", b"fog", b"clear", b"clear"]


def test_nothing_is_made_up_for_a_column_that_older_rows_lack() -> None:
    use = _use(TEMP, Column("n", Int32))  # only `force` lets such a column in
    old = row_of(OLD, {"temp": 7, "gone": 1})
    with pytest.raises(UnfillableError, match=r"feature 'weather.n' is null and has no default"):
        use.read([old], (), NOW_US)
    assert _use(TEMP, Column("n", Int32), used=["temp"]).read([old], (), NOW_US).defaulted_rows == 0


def test_no_rows() -> None:
    for use in (_use(), _use(TEMP), _use(on_missing="fail", on_null="fail", max_age="1h")):
        read = use.read([], (), NOW_US)
        assert read.defaulted_rows == 0
        assert read.table.column("temp").shape == (0,)
