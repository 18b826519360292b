"""Definitions one by one: what each object takes, and the sentence for each mistake."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Float64,
    Input,
    Int32,
    Int64,
    OnDemand,
    ParquetSource,
    Project,
    String,
    Timestamp,
    Vector,
    on_demand,
)
from featurecache.errors import DefinitionError
from featurecache.manifests.manifest import ColumnSpec, FeatureRef, SourceSpec

AIRPORT = Entity("airport", keys={"origin": String})
ROUTE = Entity("route", keys={"origin": String, "dest": String})
TEMP = Column("temp", Float32)


def _view(**changed: Any) -> FeatureView:
    return FeatureView(
        **{"name": "weather", "entity": AIRPORT, "columns": [TEMP], **changed}  # type: ignore[arg-type]
    )


def _fail(*_: object) -> None:
    raise AssertionError("nobody runs functions while they are defined")


# -- what is right --------------------------------------------------------------------------------


def test_a_view_as_it_is_written() -> None:
    view = FeatureView(
        "weather",
        entity=AIRPORT,
        source=ParquetSource("weather/*.parquet", event_time="known_at"),
        columns=[TEMP, Column("sky", String, default="clear", description="cover")],
        max_age="3h",
        retention="7d",
        cache_ttl="1m",
        stale_if_error="1d",
        tags={"tier": "1"},
    )
    assert view.source == SourceSpec("weather/*.parquet", "known_at")
    assert (view.max_age_s, view.retention_s) == (10_800, 604_800)
    assert (view.cache_ttl_s, view.stale_if_error_s) == (60, 86_400)
    assert view.columns[1].spec == ColumnSpec("sky", "string", "clear", "cover")
    assert [feature.ref for feature in view.all()] == [
        FeatureRef("view", "weather", "temp"),
        FeatureRef("view", "weather", "sky"),
    ]
    assert repr(view["temp"]) == "Feature(weather.temp)"
    bare = _view()
    assert (bare.max_age_s, bare.retention_s, bare.cache_ttl_s, bare.source) == (
        None,
        None,
        0,
        None,
    )


def test_a_view_asked_by_other_keys() -> None:
    view = _view(entity=ROUTE)
    back = view.by(origin="dest", dest="origin")
    assert back["temp"].ref == FeatureRef(
        "view", "weather", "temp", {"origin": "dest", "dest": "origin"}
    )
    assert [str(one.ref) for one in back.all()] == ["weather(origin=dest,dest=origin).temp"]
    # A key that keeps its name is not renamed: both ways of asking are one lookup.
    assert view.by(origin="origin", dest="to")["temp"].ref.keys == {"dest": "to"}
    assert view.by(origin="origin")["temp"].ref == view["temp"].ref
    assert view.by()["temp"].ref == view["temp"].ref


def test_on_demand_features_stay_functions() -> None:
    @on_demand(inputs=[_view()["temp"], Input("distance", Float32)], output=Column("sum", Float32))
    def total(temp: int, distance: int) -> int:
        """Both."""
        return temp + distance

    assert isinstance(total, OnDemand)
    assert total(2, 3) == 5
    assert (total.name, total.__doc__) == ("sum", "Both.")
    assert [str(one.ref) for one in total.inputs] == ["weather.temp", "distance"]
    again = on_demand(inputs=[total, AIRPORT["origin"]], output=Column("more", Float64))(
        lambda *columns: columns[0]
    )
    assert [one.ref.kind for one in again.inputs] == ["on_demand", "key"]


def test_services_of_one_tensor_and_of_many() -> None:
    distance = Input("distance", Float32)
    one = FeatureService("flights", [distance, _view()["temp"]])
    assert {name: len(listed) for name, listed in one.tensors.items()} == {"": 2}
    many = FeatureService("flights", {"x": [distance], "origin": (AIRPORT["origin"],)})
    assert {name: len(listed) for name, listed in many.tensors.items()} == {"x": 1, "origin": 1}


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("3h", 10_800),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("250ms", 0.25),
        (" 1.5 h ", 5400),
        (90, 90),
        (0.5, 0.5),
        (0, 0),
        ("36600d", 100 * 366 * 86_400),
    ],
)
def test_durations(duration: str | float, seconds: float) -> None:
    assert _view(max_age=duration).max_age_s == seconds


# -- mistakes -------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "a name with a dash": (
        lambda: Project("my-project"),
        "project 'my-project': a name is letters, digits and _, at most 64, and begins with no digit",
    ),
    "a name that begins with a digit": (
        lambda: Entity("1st", keys={"a": String}),
        "entity '1st': a name is",
    ),
    "a name with a line break": (lambda: Column("temp\n", Float32), r"column 'temp\n': a name is"),
    "a name of 65 letters": (lambda: Input("x" * 65, Float32), "a name is"),
    "an empty name": (lambda: _view(name=""), "feature view '': a name is"),
    "a name that is no text": (lambda: FeatureService(5, [TEMP]), "feature service 5: a name is"),  # type: ignore[arg-type, list-item]
    "a key with a bad name": (
        lambda: Entity("a", keys={"or igin": String}),
        "key 'or igin': a name is",
    ),
    "a Python type": (
        lambda: Column("temp", float),
        "column 'temp': <class 'float'> is no type; take Float32, String, Vector(Float32, 8) …",
    ),  # type: ignore[arg-type]
    "a type as text": (lambda: Input("x", "float32"), "input 'x': 'float32' is no type"),  # type: ignore[arg-type]
    "a default of the wrong type": (
        lambda: Column("sky", String, default=5),
        "column 'sky': default 5 is no string",
    ),
    "a default that is too large": (
        lambda: Column("n", Int32, default=2**31),
        "column 'n': default 2147483648 is no int32",
    ),
    "a default that JSON cannot hold": (
        lambda: Column("x", Float64, default=float("inf")),
        "column 'x': default inf cannot stand in a manifest",
    ),
    "a vector default of another length": (
        lambda: Column("v", Vector(Float32, 3), default=[1]),
        "column 'v': default has 1 elements, float32[3] has 3",
    ),
    "an entity without keys": (
        lambda: Entity("airport", keys={}),
        "entity 'airport' has no keys; write keys={'id': String}",
    ),
    "keys that are a list": (
        lambda: Entity("airport", keys=["origin"]),
        "entity 'airport' has no keys; write keys=",
    ),  # type: ignore[arg-type]
    "a key that is a float": (
        lambda: Entity("airport", keys={"x": Float32}),
        "key 'x' of entity 'airport' is float32; keys are string, int64, int32",
    ),
    "a key that is a vector": (
        lambda: Entity("airport", keys={"x": Vector(Int64, 2)}),
        "key 'x' of entity 'airport' is int64[2]",
    ),
    "a key that is a moment": (
        lambda: Entity("airport", keys={"x": Timestamp}),
        "key 'x' of entity 'airport' is timestamp",
    ),
    "a key that an entity lacks": (
        lambda: AIRPORT["dest"],
        "entity 'airport' has no key 'dest': origin",
    ),
    "a source above the data folder": (
        lambda: ParquetSource("../x.parquet", event_time="t"),
        "source '../x.parquet': a path below the data folder, without '..'",
    ),
    "a source anywhere": (
        lambda: ParquetSource("/x.parquet", event_time="t"),
        "source '/x.parquet': a path below",
    ),
    "a source nowhere": (lambda: ParquetSource("", event_time="t"), "source '': a path below"),
    "a source that is no text": (lambda: ParquetSource(5, event_time="t"), "source: 5 is no str"),  # type: ignore[arg-type]
    "a source without event time": (
        lambda: ParquetSource("x.parquet", event_time=""),
        "source 'x.parquet': `event_time` names the column",
    ),
    "a view with a column twice": (
        lambda: _view(columns=[TEMP, Column("a", Int32), TEMP]),
        "view 'weather' has column 'temp' twice",
    ),
    "a view without columns": (lambda: _view(columns=[]), "view 'weather' has no columns"),
    "a column that is none": (
        lambda: _view(columns=[("temp", Float32)]),
        "view 'weather', columns: ('temp', ColumnType(kind='float32', length=0)) is no Column",
    ),
    "an entity that is none": (
        lambda: _view(entity="airport"),
        "view 'weather', entity: 'airport' is no Entity",
    ),
    "a source as text": (
        lambda: _view(source="x.parquet"),
        "view 'weather', source: 'x.parquet' is no ParquetSource",
    ),
    "a key that is a column": (
        lambda: _view(columns=[Column("origin", String)]),
        "view 'weather': 'origin' is a key and a column",
    ),
    "an event time that is a column": (
        lambda: _view(source=ParquetSource("x", event_time="temp")),
        "view 'weather': event time 'temp' is a column or key as well",
    ),
    "an event time that is a key": (
        lambda: _view(source=ParquetSource("x", event_time="origin")),
        "view 'weather': event time 'origin' is a column or key as well",
    ),
    "on_missing": (
        lambda: _view(on_missing="use"),
        "view 'weather': on_missing is one of default, fail",
    ),
    "on_stale": (
        lambda: _view(on_stale="ignore"),
        "view 'weather': on_stale is one of default, use, fail",
    ),
    "on_null": (lambda: _view(on_null=None), "view 'weather': on_null is one of default, fail"),
    "retention without max_age": (
        lambda: _view(retention="1d"),
        "view 'weather': rows that the store forgets after `retention` need a `max_age`",
    ),
    "retention below max_age": (
        lambda: _view(max_age="2d", retention="1d"),
        "view 'weather': `retention` is shorter than `max_age` + `stale_if_error`",
    ),
    "retention below both": (
        lambda: _view(max_age="20h", cache_ttl=1, stale_if_error="5h", retention="1d"),
        "`retention` is shorter than",
    ),
    "a row that is too long": (
        lambda: _view(columns=[Column(f"v{i}", Vector(Float64, 4096)) for i in range(2)]),
        "view 'weather': a row of 65568 bytes: at most 60000; split the view",
    ),
    "too many columns": (
        lambda: _view(columns=[Column(f"v{i}", Float32) for i in range(1025)]),
        "view 'weather': 1025 columns: a view has 1 to 1024",
    ),
    "a column that a view lacks": (
        lambda: _view()["tmp"],
        "view 'weather' has no column 'tmp': temp",
    ),
    "a column that a renamed view lacks": (
        lambda: _view().by(origin="dest")["tmp"],
        "view 'weather' has no column 'tmp': temp",
    ),
    "a renamed key that a view lacks": (
        lambda: _view().by(dest="origin"),
        "view 'weather' has no join key 'dest'",
    ),
    "a key renamed badly": (lambda: _view().by(origin="de st"), "key 'de st': a name is"),
    "a service without features": (
        lambda: FeatureService("s", []),
        "feature service 's' has a tensor without features",
    ),
    "a service without tensors": (
        lambda: FeatureService("s", {}),
        "feature service 's' has a tensor without features",
    ),
    "a tensor without features": (
        lambda: FeatureService("s", {"x": [Input("a", Float32)], "y": []}),
        "feature service 's' has a tensor without features",
    ),
    "a service of a whole view": (
        lambda: FeatureService("s", [_view()]),
        "view 'weather' is no single feature: write *view.all(), or view[\"column\"]",
    ),  # type: ignore[list-item]
    "a service of a view by other keys": (
        lambda: FeatureService("s", [_view().by(origin="dest")]),
        "view 'weather' is no single feature",
    ),  # type: ignore[list-item]
    "a service of a column": (
        lambda: FeatureService("s", [TEMP]),
        'Column \'temp\' is no feature; write view["column"], an Input, entity["key"] or an on-demand feature',
    ),  # type: ignore[list-item]
    "old copies where there are none": (
        lambda: _view(max_age="1h", stale_if_error="1d"),
        "without `cache_ttl` it keeps none; set `cache_ttl`, or leave `stale_if_error` out",
    ),
    "a service of one feature": (
        lambda: FeatureService("s", Input("a", Float32)),
        "feature service 's', inputs: Input 'a' is no Sequence",
    ),  # type: ignore[arg-type]
    "an on-demand feature of nothing": (
        lambda: on_demand(inputs=[], output=TEMP)(_fail),
        "on-demand feature 'temp' has no inputs, so no number of rows",
    ),
    "an on-demand feature of a text": (
        lambda: on_demand(inputs=["temp"], output=TEMP)(_fail),
        "'temp' is no feature",
    ),  # type: ignore[list-item]
    "an output that is no column": (
        lambda: on_demand(inputs=[Input("a", Float32)], output=Float32)(_fail),
        "on-demand feature, output: ColumnType(kind='float32', length=0) is no Column",
    ),  # type: ignore[arg-type]
    "a function of fewer columns": (
        lambda: on_demand(inputs=[Input("a", Float32), Input("b", Float32)], output=TEMP)(
            lambda a: a
        ),
        "on-demand feature 'temp': its function is given 2 arrays (too many positional arguments)",
    ),
    "a function of more columns": (
        lambda: on_demand(inputs=[Input("a", Float32)], output=TEMP)(lambda a, b: a),
        "its function is given 1 arrays (missing a required argument: 'b')",
    ),
    "a function that is none": (
        lambda: on_demand(inputs=[Input("a", Float32)], output=TEMP)(5),
        "its function is given 1 arrays (5 is not a callable object)",
    ),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_has_its_sentence(mistake: str) -> None:
    make, sentence = MISTAKES[mistake]
    with pytest.raises(DefinitionError, match=re.escape(sentence)):
        make()


@pytest.mark.parametrize(
    "duration",
    [
        "",
        "h",
        "3",
        "3 hours",
        "-3h",
        "1h30m",
        "3H",
        "٣h",
        "nan",
        "1e3s",
        True,
        [3],
        "9" * 400 + "d",
    ],
)
def test_what_is_no_duration(duration: object) -> None:
    with pytest.raises(
        DefinitionError, match=r"max_age: .* is no duration; write 90s, 5m, 3h or 7d"
    ):
        _view(max_age=duration)


@pytest.mark.parametrize(
    "duration", [-1, -0.5, float("nan"), float("inf"), 10**400, "36601d", "1" * 18 + "w"]
)
def test_durations_out_of_bounds(duration: object) -> None:
    with pytest.raises(
        DefinitionError, match=r"cache_ttl: .* is not between 0 and a hundred years"
    ):
        _view(cache_ttl=duration)


def test_retention_of_exactly_both_is_enough() -> None:
    view = _view(max_age="20h", cache_ttl=1, stale_if_error="4h", retention="1d")
    assert view.retention_s == 86_400


def test_an_integer_key_of_each_kind() -> None:
    assert list(Entity("a", keys={"x": Int32, "y": Int64, "z": String}).keys) == ["x", "y", "z"]
