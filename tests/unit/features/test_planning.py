"""Services and models, fitted together: what a caller sends, and what does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Input,
    Int64,
    String,
    Vector,
    on_demand,
)
from featurecache.errors import DefinitionError
from featurecache.joining.assembly import ModelInput
from featurecache.joining.planning import KeySource, key_origins, key_places
from tests.unit.features.feature_plans import plan_of

ROUTE = Entity("route", keys={"origin": String, "dest": String})
PLANE = Entity("plane", keys={"tail": Int64})
WEATHER = FeatureView(
    "weather", entity=ROUTE, columns=[Column("temp", Float32), Column("wind", Float32)]
)
PLANES = FeatureView(
    "planes", entity=PLANE, columns=[Column("age", Float32), Column("temp", Float32)]
)
DISTANCE = Input("distance", Float32)
HOURLY = Input("hourly", Vector(Float32, 3))
X = ModelInput("x", "FP32", (-1, -1))


def _refused(
    service: FeatureService, *inputs: ModelInput, keys: Mapping[str, str] | None = None
) -> str:
    with pytest.raises(DefinitionError) as refused:
        plan_of(service, *inputs, keys=keys)
    return str(refused.value)


# -- what a caller sends --------------------------------------------------------------------------


def test_callers_send_keys_then_values() -> None:
    plan = plan_of(FeatureService("s", [HOURLY, DISTANCE, WEATHER["temp"], PLANES["age"]]), X)
    assert plan.client_inputs == (
        ModelInput("origin", "BYTES", (-1, 1)),
        ModelInput("dest", "BYTES", (-1, 1)),
        ModelInput("tail", "INT64", (-1, 1)),
        ModelInput("hourly", "FP32", (-1, 3)),
        ModelInput("distance", "FP32", (-1, 1)),
    )
    assert (plan.parameters, plan.headers) == ((), ())


def test_a_batch_of_fixed_size_stays_one() -> None:
    plan = plan_of(FeatureService("s", [DISTANCE]), ModelInput("x", "FP32", (8, 1)))
    assert plan.client_inputs == (ModelInput("distance", "FP32", (8, 1)),)


def test_keys_from_elsewhere() -> None:
    plan = plan_of(
        FeatureService("s", [WEATHER["temp"], PLANES["age"]]),
        X,
        keys={"origin": "header:X-Origin", "dest": "input:to", "tail": "parameter:plane"},
    )
    assert [one.name for one in plan.client_inputs] == ["to"]
    assert (plan.parameters, plan.headers) == (("plane",), ("x-origin",))


def test_renamed_keys_and_what_on_demand_features_need_are_sent_as_well() -> None:
    far = on_demand(
        inputs=[DISTANCE, WEATHER.by(dest="stop")["wind"]], output=Column("far", Float32)
    )(lambda d, w: d)

    class Functions:
        def compute(self, name: str, columns: list[Any]) -> Any:
            raise AssertionError("nothing is computed here")

    plan = plan_of(FeatureService("s", [far, PLANES["age"]]), X, functions=Functions())
    assert [one.name for one in plan.client_inputs] == ["tail", "origin", "stop", "distance"]
    assert [use.title for use in plan.uses] == ["planes", "weather(dest=stop)"]
    assert (
        _refused(FeatureService("s", [far, PLANES["age"]]), X)
        == "on-demand feature 'far' needs its code"
    )


def test_sources_of_keys() -> None:
    types = {"a": String, "b": String, "c": Int64, "d": String}
    sources = key_origins(types, {"b": "parameter:p", "c": "header:h-x", "d": "parameter:q"})
    assert sources == {
        "a": KeySource("input", "a"),
        "b": KeySource("parameter", "p"),
        "c": KeySource("header", "h-x"),
        "d": KeySource("parameter", "q"),
    }
    assert key_places(sources) == [
        ("a", 0, "input"),
        ("b", 0, "parameter"),
        ("c", 0, "header"),
        ("d", 1, "parameter"),
    ]


@pytest.mark.parametrize("told", ["", "origin", "input:", "cookie:x", "Input:x", ":x"])
def test_sources_of_keys_that_are_none(told: str) -> None:
    with pytest.raises(
        DefinitionError,
        match=re.escape(
            f"key 'a' comes from {told!r}; write input:NAME, parameter:NAME or header:NAME"
        ),
    ):
        key_origins({"a": String}, {"a": told})


def test_a_key_that_the_service_has_not() -> None:
    with pytest.raises(
        DefinitionError, match="`keys` names 'x', which is no join key of the service: a, b"
    ):
        key_origins({"a": String, "b": String}, {"x": "input:x"})
    with pytest.raises(DefinitionError, match="which is no join key of the service: none"):
        key_origins({}, {"x": "input:x"})


def test_inputs_that_clash() -> None:
    service = FeatureService("s", [WEATHER["temp"], DISTANCE])
    both = {"origin": "input:airport", "dest": "input:airport"}
    assert _refused(service, X, keys=both) == "the request would carry 'airport' twice"
    assert (
        _refused(service, X, keys={"origin": "input:distance"})
        == "the request would carry 'distance' twice"
    )


def test_a_request_without_inputs() -> None:
    everything = {"tail": "header:tail"}
    assert (
        _refused(FeatureService("s", [PLANES["age"]]), X, keys=everything)
        == "the request would carry no input at all; V2 asks for at least one"
    )


# -- which feature fills which input --------------------------------------------------------------


def _one(name: str, datatype: str = "FP32") -> ModelInput:
    return ModelInput(name, datatype, (-1, 1))


def test_models_of_many_inputs_by_the_names_of_features() -> None:
    service = FeatureService("s", [DISTANCE, WEATHER["temp"], PLANES["age"], ROUTE["origin"]])
    plan = plan_of(
        service, _one("origin", "BYTES"), _one("weather.temp"), _one("age"), _one("distance")
    )
    assert [tensor.name for tensor in plan.tensors] == ["origin", "weather.temp", "age", "distance"]


def test_two_columns_of_one_name_need_the_views_names() -> None:
    service = FeatureService("s", [WEATHER["temp"], PLANES["temp"]])
    assert (
        _refused(service, _one("temp"), _one("other"))
        == "feature service 's': the model's input 'temp' could be weather.temp or planes.temp; "
        "name the tensors in the service"
    )
    plan_of(service, _one("planes.temp"), _one("weather.temp"))
    # The full name first: `temp` alone is then free for the other.
    plan = plan_of(service, _one("temp"), _one("weather.temp"))
    assert [tensor.name for tensor in plan.tensors] == ["temp", "weather.temp"]


def test_named_tensors() -> None:
    service = FeatureService("s", {"a": [DISTANCE, WEATHER["temp"]], "b": [PLANES["age"]]})
    plan = plan_of(service, _one("b"), ModelInput("a", "FP32", (-1, 2)))
    assert [tensor.name for tensor in plan.tensors] == ["b", "a"]


@pytest.mark.parametrize(
    ("inputs", "features", "nothing_fills", "has_no"),
    [
        (["a", "b"], {"a": [DISTANCE]}, "b", "-"),
        (["a"], {"a": [DISTANCE], "c": [DISTANCE]}, "-", "c"),
        (["a", "b"], {"b": [DISTANCE], "c": [DISTANCE]}, "a", "c"),
        (["distance", "b"], [DISTANCE], "b", "-"),
        (["distance", "wind"], [DISTANCE, WEATHER["wind"], WEATHER["temp"]], "-", "weather.temp"),
    ],
)
def test_services_that_do_not_fit(
    inputs: list[str], features: Any, nothing_fills: str, has_no: str
) -> None:
    assert _refused(FeatureService("s", features), *map(_one, inputs)) == (
        "feature service 's' does not fit the model: "
        f"nothing fills {nothing_fills}; the model has no input {has_no}"
    )


def test_widths_and_types_are_checked_as_well() -> None:
    service = FeatureService("s", [DISTANCE, WEATHER["temp"]])
    assert "make 2 values a row" in _refused(service, ModelInput("x", "FP32", (-1, 3)))
    assert "feature distance is float32, and input 'x' of the model is INT64" in _refused(
        service, ModelInput("x", "INT64", (-1, 2))
    )
    keyed = FeatureService("s", [ROUTE["origin"], WEATHER["temp"]])
    assert "feature origin is string" in _refused(keyed, ModelInput("x", "FP32", (-1, 2)))


def test_columns_are_looked_up_once_however_often_they_are_named() -> None:
    service = FeatureService("s", {"a": [WEATHER["temp"], WEATHER["wind"]], "b": [WEATHER["temp"]]})
    plan = plan_of(service, ModelInput("a", "FP32", (-1, 2)), _one("b"))
    (use,) = plan.uses
    assert use.columns == ["temp", "wind"]
