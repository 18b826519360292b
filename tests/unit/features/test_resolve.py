"""Whole requests, one situation at a time; all of them together: test_resolve_reference.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Int32,
    String,
)
from featurecache.errors import RowError
from featurecache.joining.assembly import ModelInput
from featurecache.joining.resolve import MAX_ROWS
from featurecache.rows.schema import RowSchema
from featurecache.status import Status
from tests.unit.features.feature_plans import (
    NOW_US,
    SECOND_US,
    complete,
    floats,
    plan_of,
    row_of,
    texts,
)
from tests.unit.features.request_cases import (
    AIRPORT,
    DELAY,
    DISTANCE,
    FLIGHT,
    WEATHER,
    X,
    delay,
    numbers,
    row_keys,
    weather,
)

# -- good requests --------------------------------------------------------------------------------


def test_one_tensor_of_everything() -> None:
    service = FeatureService(
        "s", [DISTANCE, WEATHER["wind"], WEATHER["hourly"], DELAY["late"], WEATHER["open"]]
    )
    plan = plan_of(service, X)
    store = weather(b"JFK") | weather(b"LGA", wind=9, hourly=[5, 6], open=True)
    store |= delay(b"UA|12", 0.5) | delay(b"AA|-3", 1e300)
    inputs = [texts(b"JFK", b"LGA"), texts(b"UA", b"AA"), numbers(12, -3), floats(100, 200)]
    filled = complete(plan, inputs, store)
    (x,) = filled.tensors
    assert x.dtype == np.float32
    assert x.tolist() == [[100, 2.5, 3, 4, 0.5, 0], [200, 9, 5, 6, np.inf, 1]]  # and no warning
    assert (filled.rows, filled.defaulted_values, filled.values) == (2, 0, 8)
    assert filled.defaulted_fraction == 0.0


def test_several_tensors_of_several_types() -> None:
    service = FeatureService(
        "s",
        {
            "x": [WEATHER["temp"], DISTANCE],
            "sky": [WEATHER["sky"], AIRPORT["origin"]],
            "open": [WEATHER["open"]],
            "flat": [DELAY["late"]],
            "number": [FLIGHT["number"]],
        },
    )
    plan = plan_of(
        service,
        ModelInput("open", "BOOL", (-1, 1)),
        ModelInput("flat", "FP64", (-1,)),
        ModelInput("sky", "BYTES", (-1, 2)),
        ModelInput("number", "INT64", (-1,)),
        ModelInput("x", "FP32", (-1, 2)),
    )
    store = weather(b"JFK") | delay(b"UA|1", 0.5)
    names = [one.name for one in plan.client_inputs]
    assert names == ["origin", "carrier", "number", "distance"]
    inputs = [texts(b"JFK"), texts(b"UA"), numbers(1), floats(7)]
    found = complete(plan, inputs, store).tensors
    assert [one.tolist() for one in found] == [
        [[False]],
        [0.5],
        [[b"fog", b"JFK"]],
        [1],
        [[1.5, 7]],
    ]
    assert [one.dtype for one in found] == [bool, np.float64, object, np.int64, np.float32]


def test_a_model_without_views() -> None:
    plan = plan_of(FeatureService("s", [DISTANCE]), ModelInput("x", "FP32", (-1, 1)))
    filled = complete(plan, [floats(1, 2)], {})
    assert filled.tensors[0].tolist() == [[1], [2]]
    assert (filled.values, filled.defaulted_fraction) == (0, 0.0)


def test_one_view_asked_by_two_keys() -> None:
    service = FeatureService("s", [WEATHER["temp"], WEATHER.by(origin="dest")["temp"]])
    plan = plan_of(service, X)
    assert [one.name for one in plan.client_inputs] == ["origin", "dest"]
    store = weather(b"a", temp=1) | weather(b"b", temp=2)
    inputs = [texts(b"a", b"b"), texts(b"b", b"a")]
    assert complete(plan, inputs, store).tensors[0].tolist() == [[1, 2], [2, 1]]


def test_keys_swapped() -> None:
    route = Entity("route", keys={"origin": String, "dest": String})
    routes = FeatureView("routes", entity=route, columns=[Column("a", Float32)])
    service = FeatureService("s", [routes["a"], routes.by(origin="dest", dest="origin")["a"]])
    keys = row_keys(plan_of(service, X), [texts(b"a"), texts(b"b")])
    assert keys == [[b"hr:p:{route:a|b}:routes"], [b"hr:p:{route:b|a}:routes"]]


def test_no_rows() -> None:
    service = FeatureService("s", [DISTANCE, WEATHER["temp"], WEATHER["hourly"], DELAY["late"]])
    plan = plan_of(service, X)
    inputs = [texts(), texts(), numbers(), floats()]
    assert row_keys(plan, inputs) == [[], []]
    filled = complete(plan, inputs, {})
    assert filled.tensors[0].shape == (0, 5)
    assert (filled.rows, filled.values, filled.defaulted_fraction) == (0, 0, 0.0)
    words = FeatureService("s", {"x": [WEATHER["sky"], AIRPORT["origin"]]})
    plan = plan_of(words, ModelInput("x", "BYTES", (-1, 2)))
    assert complete(plan, [texts()], {}).tensors[0].shape == (0, 2)


def test_the_tensors_are_the_models_own() -> None:
    plan = plan_of(FeatureService("s", [DISTANCE, WEATHER["temp"]]), X)
    inputs, store = [texts(b"JFK"), floats(1)], weather(b"JFK")
    before = dict(store)
    complete(plan, inputs, store).tensors[0][:] = 0
    assert inputs[1].tolist() == [[1]]
    assert store == before


# -- keys -----------------------------------------------------------------------------------------


def test_composite_keys_with_odd_bytes() -> None:
    plan = plan_of(FeatureService("s", [DELAY["late"]]), X)
    inputs = [texts("é|".encode(), b"UA"), numbers(-1, 2**63 - 1)]
    assert row_keys(plan, inputs) == [
        [b"hr:p:{flight:%C3%A9%7C|-1}:delay", b"hr:p:{flight:UA|9223372036854775807}:delay"]
    ]


def test_empty_keys_name_no_entity_and_are_not_looked_up() -> None:
    plan = plan_of(FeatureService("s", [DELAY["late"], WEATHER["wind"]]), X)
    inputs = [texts(b"", b"UA", b"UA"), numbers(1, 2, 3), texts(b"JFK", b"", b"LGA")]
    assert row_keys(plan, inputs) == [
        [b"hr:p:{flight:UA|2}:delay", b"hr:p:{flight:UA|3}:delay"],
        [b"hr:p:{airport:JFK}:weather", b"hr:p:{airport:LGA}:weather"],
    ]
    store = (
        delay(b"UA|2", 2) | delay(b"UA|3", 3) | weather(b"JFK", wind=7) | weather(b"LGA", wind=8)
    )
    filled = complete(plan, inputs, store)
    assert filled.tensors[0].tolist() == [[0.25, 7], [2, -1], [3, 8]]
    statuses = [
        [Status(one).name for one in read.statuses]
        for read in filled.views
        if read.statuses is not None
    ]
    assert statuses == [["MISSING", "PRESENT", "PRESENT"], ["PRESENT", "MISSING", "PRESENT"]]
    assert (filled.defaulted_values, filled.values) == (2, 6)


def test_aged_copies_behind_gaps_are_the_right_ones() -> None:
    view = FeatureView(
        "w",
        entity=AIRPORT,
        columns=[Column("a", Float32)],
        max_age=10,
        cache_ttl=5,
        stale_if_error=20,
    )
    other = FeatureView("v", entity=AIRPORT, columns=[Column("a", Float32)])
    plan = plan_of(FeatureService("s", [other["a"], view["a"]]), X)
    schema = RowSchema([("a", Float32)])
    old = [row_of(schema, {"a": i}, event_us=NOW_US - 15 * SECOND_US) for i in range(4)]
    store = {b"hr:p:{airport:e%d}:w" % i: row for i, row in enumerate(old)}
    store |= {b"hr:p:{airport:e%d}:v" % i: row for i, row in enumerate(old)}
    inputs = [texts(b"e0", b"", b"e2", b"e3")]
    filled = complete(plan, inputs, store, aged={b"hr:p:{airport:e0}:w", b"hr:p:{airport:e3}:w"})
    np.testing.assert_array_equal(
        filled.tensors[0], np.array([[0, 0], [np.nan, np.nan], [2, np.nan], [3, 3]], "f4")
    )
    assert filled.views[1].statuses is not None
    assert filled.views[1].statuses.tolist() == [
        Status.STALE,
        Status.MISSING,
        Status.STALE,
        Status.STALE,
    ]
    assert filled.defaulted_values == 3


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (b"x" * 257, "key 'origin': a key of 257 bytes: at most 256 are possible"),
        (b"\xff", "key 'origin': a key that is not UTF-8 (byte 0): b'\\xff'"),
    ],
    ids=["long", "odd"],
)
def test_keys_that_cannot_be_one(key: bytes, sentence: str) -> None:
    plan = plan_of(FeatureService("s", [WEATHER["temp"]]), X)
    with pytest.raises(RowError) as refused:
        plan.wanted([texts(b"JFK", key)], ())
    assert str(refused.value) == sentence


def test_keys_from_parameters_and_headers_are_for_all_rows() -> None:
    plan = plan_of(
        FeatureService("s", [DISTANCE, DELAY["late"], WEATHER["temp"]]),
        X,
        keys={"carrier": "header:Carrier", "number": "parameter:n", "origin": "header:From"},
    )
    assert (plan.parameters, plan.headers) == (("n",), ("carrier", "from"))
    assert row_keys(plan, [floats(1, 2)], (12, "UA", "Zürich")) == [
        [b"hr:p:{flight:UA|12}:delay"] * 2,
        [b"hr:p:{airport:Z%C3%BCrich}:weather"] * 2,
    ]
    assert row_keys(plan, [floats(1)], (12, None, "")) == [[], []]
    filled = complete(plan, [floats(1)], {}, context=(None, "UA", None))
    assert filled.tensors[0][0, :2].tolist() == [1, 0.25]


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (5, b"5"),
        ("5", b"5"),
        (" -7 ", b"-7"),
        ("+7", b"7"),
        ("007", b"7"),
        (2**31 - 1, b"2147483647"),
    ],
)
def test_integer_keys_from_elsewhere(value: Any, part: bytes) -> None:
    view = FeatureView("v", entity=Entity("e", keys={"id": Int32}), columns=[Column("a", Float32)])
    plan = plan_of(FeatureService("s", [DISTANCE, view["a"]]), X, keys={"id": "header:id"})
    assert row_keys(plan, [floats(1)], (value,)) == [[b"hr:p:{e:%b}:v" % part]]


@pytest.mark.parametrize("value", [None, ""])
def test_an_integer_key_that_is_left_empty_names_no_entity(value: str | None) -> None:
    view = FeatureView("v", entity=Entity("e", keys={"id": Int32}), columns=[Column("a", Float32)])
    plan = plan_of(FeatureService("s", [DISTANCE, view["a"]]), X, keys={"id": "header:id"})
    assert row_keys(plan, [floats(1)], (value,)) == [[]]


@pytest.mark.parametrize(
    "value",
    [
        True,
        5.0,
        "5.0",
        "1_000",
        "٣",
        "0x5",
        "five",
        2**31,
        -(2**31) - 1,
        "2147483648",
        "9" * 30,
        "9" * 5000,
    ],
    ids=lambda value: repr(value)[:12],
)
def test_what_is_no_integer_key(value: Any) -> None:
    view = FeatureView("v", entity=Entity("e", keys={"id": Int32}), columns=[Column("a", Float32)])
    plan = plan_of(FeatureService("s", [DISTANCE, view["a"]]), X, keys={"id": "parameter:id"})
    with pytest.raises(RowError, match=r"key 'id' is '.*', and must be of type int32") as refused:
        plan.wanted([floats(1)], (value,))
    assert len(str(refused.value)) < 150


@pytest.mark.parametrize("value", [5, 5.0, True])
def test_what_is_no_string_key(value: Any) -> None:
    plan = plan_of(
        FeatureService("s", [DISTANCE, WEATHER["temp"]]), X, keys={"origin": "parameter:o"}
    )
    with pytest.raises(RowError, match=r"key 'origin' is '.*', and must be of type string"):
        plan.wanted([floats(1)], (value,))


def test_string_keys_from_elsewhere_that_cannot_be_one() -> None:
    plan = plan_of(FeatureService("s", [DISTANCE, WEATHER["temp"]]), X, keys={"origin": "header:o"})
    with pytest.raises(RowError, match="key 'origin' is no UTF-8"):
        plan.wanted([floats(1)], ("\ud800",))
    with pytest.raises(RowError, match="key 'origin': a key of 300 bytes"):
        plan.wanted([floats(1)], ("x" * 300,))


def test_keys_from_elsewhere_as_values_of_the_model() -> None:
    service = FeatureService(
        "s", {"x": [DELAY["late"], DISTANCE], "who": [FLIGHT["carrier"]], "n": [FLIGHT["number"]]}
    )
    plan = plan_of(
        service,
        X,
        ModelInput("who", "BYTES", (-1,)),
        ModelInput("n", "FP32", (-1, 1)),
        keys={"carrier": "parameter:c", "number": "parameter:n"},
    )
    found = complete(plan, [floats(1, 2)], {}, context=("UA", 5)).tensors
    assert [one.tolist() for one in found[1:]] == [[b"UA", b"UA"], [[5], [5]]]
    found = complete(plan, [floats(1)], {}, context=(None, 5)).tensors
    assert found[1].tolist() == [b""]
    with pytest.raises(
        RowError, match="key 'number' is missing, and the model takes it as a value"
    ):
        plan.wanted([floats(1)], ("UA", None))


def test_only_keys_that_the_model_takes_must_be_there() -> None:
    service = FeatureService("s", {"x": [DELAY["late"]], "who": [FLIGHT["carrier"]]})
    plan = plan_of(service, X, ModelInput("who", "BYTES", (-1,)), keys={"number": "parameter:n"})
    filled = complete(plan, [texts(b"UA")], {}, context=(None,))
    assert filled.tensors[0].tolist() == [[0.25]]


def test_too_many_rows() -> None:
    plan = plan_of(FeatureService("s", [DISTANCE]), X)
    assert plan.wanted([np.zeros((MAX_ROWS, 1), "f4")], ()).rows == MAX_ROWS
    with pytest.raises(RowError, match="10001 rows: at most 10000 can be looked up in one request"):
        plan.wanted([np.zeros((MAX_ROWS + 1, 1), "f4")], ())


def test_inputs_of_different_lengths() -> None:
    plan = plan_of(FeatureService("s", [DISTANCE, WEATHER["temp"]]), X)
    with pytest.raises(RowError, match="the inputs have different numbers of rows"):
        plan.wanted([texts(b"a", b"b"), floats(1)], ())
