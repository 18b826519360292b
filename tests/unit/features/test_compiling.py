"""Definitions together: the manifest that they make, and what clashes."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from featurecache.definitions import (
    Column,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Float32,
    Float64,
    Input,
    Int64,
    ParquetSource,
    Project,
    String,
    feature_of,
    on_demand,
)
from featurecache.errors import DefinitionError
from featurecache.manifests.compiling import MAX_DEPTH, compile_manifest
from featurecache.manifests.manifest import FeatureRef, Manifest, ServiceSpec, TensorSpec
from featurecache.manifests.needs import key_types, needed_refs

PROJECT = Project("p")
AIRPORT = Entity("airport", keys={"origin": String})
WEATHER = FeatureView("weather", entity=AIRPORT, columns=[Column("temp", Float32)])
DISTANCE = Input("distance", Float32)


def _on(name: str, *inputs: Any) -> Any:
    return on_demand(inputs=inputs, output=Column(name, Float32))(lambda *columns: columns[0])


def _refused(*definitions: object) -> str:
    with pytest.raises(DefinitionError) as refused:
        compile_manifest([PROJECT, *definitions])
    return str(refused.value)


# -- what is right --------------------------------------------------------------------------------


def test_everything_that_is_reachable_is_in_the_manifest() -> None:
    chill = _on("chill", WEATHER["temp"], DISTANCE)
    colder = _on("colder", chill)
    service = FeatureService("flights", [colder, AIRPORT["origin"]], owner="ops", description="d")
    manifest = compile_manifest(["not a definition", 5, service, PROJECT])
    assert manifest.project == "p"
    assert [one.name for one in manifest.entities] == ["airport"]
    assert [one.name for one in manifest.views] == ["weather"]
    assert [one.name for one in manifest.inputs] == ["distance"]
    assert [one.name for one in manifest.on_demand] == ["chill", "colder"]
    assert manifest.services == [
        ServiceSpec(
            "flights",
            [TensorSpec("", [FeatureRef("on_demand", "colder"), FeatureRef("key", "origin")])],
            "ops",
            "d",
        )
    ]
    assert (manifest.revision, manifest.code) == (1, "")


def test_views_keep_all_that_was_written() -> None:
    view = FeatureView(
        "v",
        entity=AIRPORT,
        columns=[Column("a", Float32, default=1.5, description="d")],
        source=ParquetSource("v/*.parquet", event_time="t"),
        max_age="1h",
        retention="3h",
        cache_ttl="1m",
        stale_if_error="2h",
        on_missing="fail",
        on_stale="use",
        on_null="fail",
        owner="o",
        description="vd",
        tags={"tier": "1"},
        pii=True,
    )
    (spec,) = compile_manifest([PROJECT, view]).views
    assert msgspec.to_builtins(spec) == {
        "name": "v",
        "entity": "airport",
        "columns": [{"name": "a", "type": "float32", "default": 1.5, "description": "d"}],
        "source": {"path": "v/*.parquet", "event_time": "t"},
        "max_age_s": 3600.0,
        "retention_s": 10_800.0,
        "cache_ttl_s": 60.0,
        "stale_if_error_s": 7200.0,
        "on_missing": "fail",
        "on_stale": "use",
        "on_null": "fail",
        "owner": "o",
        "description": "vd",
        "tags": {"tier": "1"},
        "pii": True,
    }


def test_on_demand_features_stand_after_what_they_need() -> None:
    first = _on("first", DISTANCE)
    second = _on("second", first)
    third = _on("third", second, first)
    manifest = compile_manifest([third, second, first, PROJECT])
    assert [one.name for one in manifest.on_demand] == ["first", "second", "third"]


def test_the_docstring_describes_an_on_demand_feature() -> None:
    @on_demand(inputs=[DISTANCE], output=Column("far", Float32))
    def far(distance: Any) -> Any:
        """How
        far."""
        return distance

    assert compile_manifest([PROJECT, far]).on_demand[0].description == "How far."


def test_one_input_written_twice_is_one_input() -> None:
    manifest = compile_manifest(
        [PROJECT, Input("distance", Float32), FeatureService("s", [Input("distance", Float32)])]
    )
    assert len(manifest.inputs) == 1


def test_a_deep_chain_in_its_own_order_compiles() -> None:
    chain: list[Any] = [DISTANCE]
    for number in range(2 * MAX_DEPTH):
        chain.append(_on(f"step{number}", chain[-1]))
    assert len(compile_manifest([PROJECT, *chain]).on_demand) == 2 * MAX_DEPTH


def test_keys_in_the_order_of_first_need() -> None:
    route = Entity("route", keys={"origin": String, "dest": String})
    number = Entity("number", keys={"flight": Int64})
    routes = FeatureView("routes", entity=route, columns=[Column("a", Float32)])
    numbers = FeatureView("numbers", entity=number, columns=[Column("b", Float32)])
    deep = _on("deep", numbers["b"])
    service = FeatureService("s", [deep, WEATHER.by(origin="stop")["temp"], routes["a"]])
    manifest = compile_manifest([PROJECT, service])
    # What an on-demand feature needs comes after what the service names itself.
    assert list(key_types(manifest, manifest.service("s")).items()) == [
        ("stop", "string"),
        ("origin", "string"),
        ("dest", "string"),
        ("flight", "int64"),
    ]
    assert [str(ref) for ref in needed_refs(manifest, manifest.service("s"))] == [
        "deep",
        "weather(origin=stop).temp",
        "routes.a",
        "numbers.b",
    ]


def test_a_key_as_a_value_has_the_type_by_which_the_views_ask() -> None:
    one = Entity("one", keys={"id": Int64})
    other = Entity("other", keys={"id": String})
    ones = FeatureView("ones", entity=one, columns=[Column("a", Float32)])
    others = FeatureView("others", entity=other, columns=[Column("a", Float32)])
    # The key stands before the view that knows its type, and two entities have such a key.
    service = FeatureService("s", [one["id"], ones["a"]])
    manifest = compile_manifest([PROJECT, others, service])
    assert key_types(manifest, manifest.service("s")) == {"id": "int64"}


# -- clashes --------------------------------------------------------------------------------------


def test_one_project() -> None:
    with pytest.raises(
        DefinitionError,
        match=re.escape('0 projects are defined; write one: project = Project("name")'),
    ):
        compile_manifest([WEATHER])
    assert "2 projects are defined" in _refused(Project("q"))


def test_two_objects_of_one_name() -> None:
    column = [Column("temp", Float32)]
    assert (
        _refused(FeatureView("weather", entity=AIRPORT, columns=column), WEATHER)
        == "feature view 'weather' is defined twice, in different ways"
    )
    assert _refused(AIRPORT, Entity("airport", keys={"id": String})).startswith(
        "entity 'airport' is defined twice"
    )
    assert _refused(DISTANCE, Input("distance", Float64)).startswith(
        "input 'distance' is defined twice"
    )
    assert _refused(_on("x", DISTANCE), _on("x", DISTANCE)).startswith(
        "on-demand feature 'x' is defined twice"
    )
    services = [FeatureService("s", [DISTANCE]), FeatureService("s", [WEATHER["temp"]])]
    assert _refused(*services).startswith("feature service 's' is defined twice")


def test_one_name_for_two_things() -> None:
    assert (
        _refused(DISTANCE, _on("distance", WEATHER["temp"]))
        == "'distance' is the name of an on-demand feature and of an input"
    )
    assert "'origin' is the name of a key and of an input" in _refused(
        AIRPORT, Input("origin", String)
    )
    assert "'origin' is the name of a key and of an on-demand" in _refused(
        AIRPORT, _on("origin", DISTANCE)
    )


def test_renamed_keys_are_names_as_well() -> None:
    by = WEATHER.by(origin="distance")["temp"]
    assert (
        _refused(FeatureService("s", [by, DISTANCE]))
        == "feature service 's': 'distance' is a join key (string) and an input"
    )
    computed = _on("dest", DISTANCE)
    assert (
        _refused(FeatureService("s", [WEATHER.by(origin="dest")["temp"], computed]))
        == "feature service 's': 'dest' is a join key (string) and an on-demand feature"
    )


def test_a_key_of_two_types() -> None:
    one = FeatureView("one", entity=Entity("a", keys={"id": Int64}), columns=[Column("x", Float32)])
    other = FeatureView(
        "other", entity=Entity("b", keys={"id": String}), columns=[Column("x", Float32)]
    )
    assert compile_manifest([PROJECT, one, other])  # no service asks for both
    assert (
        _refused(FeatureService("s", [one["x"], other["x"]]))
        == "feature service 's': join key 'id' is int64 and string"
    )
    renamed = WEATHER.by(origin="id")["temp"]
    assert "join key 'id' is string and int64" in _refused(FeatureService("s", [renamed, one["x"]]))
    assert (
        _refused(one, other, FeatureService("s", [feature_of(DISTANCE), one.entity["id"]]))
        == "feature service 's': join key 'id' is int64 and string in different entities; give one of them another name"
    )


def test_a_feature_twice_in_a_tensor() -> None:
    twice = FeatureService("s", [WEATHER["temp"], DISTANCE, WEATHER["temp"]])
    assert _refused(twice) == "feature service 's' names weather.temp twice"
    assert compile_manifest(
        [PROJECT, FeatureService("s", {"a": [DISTANCE], "b": [DISTANCE]}), DISTANCE]
    )
    assert _refused(FeatureService("s", [WEATHER["temp"], WEATHER.by(origin="origin")["temp"]]))


def test_a_circle() -> None:
    one = _on("one", DISTANCE)
    two = _on("two", one)
    one.inputs.append(feature_of(two))
    assert (
        _refused(one, _on("fine", DISTANCE))
        == "on-demand features that need each other in a circle: one, two"
    )


def test_a_chain_that_is_too_deep() -> None:
    last: Any = DISTANCE
    for number in range(MAX_DEPTH + 1):
        last = _on(f"step{number}", last)
    assert _refused(last) == "on-demand features need each other more than 32 deep"


def test_values_that_the_manifest_could_not_be_read_with() -> None:
    tagged = FeatureView("v", entity=AIRPORT, columns=[Column("a", Float32)], tags={"tier": 1})  # type: ignore[dict-item]
    assert _refused(tagged).startswith(
        "a definition has a value of the wrong type: Expected `str`, got `int`"
    )
    owned = FeatureView("v", entity=AIRPORT, columns=[Column("a", Float32)], owner=object())  # type: ignore[arg-type]
    assert "wrong type" in _refused(owned)
    private = FeatureView("v", entity=AIRPORT, columns=[Column("a", Float32)], pii="yes")  # type: ignore[arg-type]
    assert "$.views[0].pii" in _refused(private)


def test_references_to_nothing() -> None:
    stray = Feature(FeatureRef("view", "gone", "temp"), DISTANCE)
    assert "no feature view 'gone'; the manifest has none" in _refused(FeatureService("s", [stray]))
    manifest = Manifest("p", [], [])
    service = ServiceSpec("s", [TensorSpec("", [FeatureRef("key", "id")])])
    with pytest.raises(DefinitionError, match="feature service 's': no entity has a join key 'id'"):
        key_types(manifest, service)
