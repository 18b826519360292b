"""What may follow what: every compatible and every incompatible change of a manifest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
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
    Project,
    String,
    on_demand,
)
from featurecache.errors import DefinitionError
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.evolution import (
    MAX_GONE,
    MAX_GONE_BYTES,
    MAX_OLDER_SCHEMAS,
    changes,
    follow,
    incompatibilities,
)
from featurecache.manifests.manifest import Manifest, decode_manifest, encode_manifest


def _manifest(
    *,
    project: str = "p",
    keys: dict[str, Any] | None = None,
    columns: list[Column] | None = None,
    service: list[str] | None = None,
    extra: list[object] | None = None,
    **view: Any,
) -> Manifest:
    route = Entity("route", keys=keys or {"origin": String, "dest": String})
    weather = FeatureView(
        "weather",
        entity=view.pop("entity", route),
        columns=columns or [Column("temp", Float32), Column("sky", String, default="clear")],
        **view,
    )
    named = [weather[name] for name in service or ["temp"]]
    return compile_manifest([Project(project), route, FeatureService("s", named), *(extra or [])])


def _applied(**changed: Any) -> Manifest:
    """As it comes back from its file, at revision 3."""
    made = msgspec.structs.replace(_manifest(**changed), revision=3)
    return decode_manifest(encode_manifest(made), "manifest.json")


def test_the_first() -> None:
    new = _manifest()
    assert follow(None, new) == (new, ["first revision"])


def test_the_same_again_is_no_change() -> None:
    old = _applied()
    assert follow(old, _manifest()) == (old, [])
    nan = [Column("temp", Float32, default=float("nan"))]
    assert follow(_applied(columns=nan), _manifest(columns=nan))[1] == []


def _on_demand() -> object:
    return on_demand(inputs=[Input("distance", Float32)], output=Column("far", Float32))(
        lambda d: d
    )


COMPATIBLE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a new column with a default": (
        {
            "columns": [
                Column("temp", Float32),
                Column("sky", String, default="clear"),
                Column("n", Int32, default=0),
            ]
        },
        ["view 'weather' changed"],
    ),
    "a new float column": (
        {
            "columns": [
                Column("temp", Float32),
                Column("sky", String, default="clear"),
                Column("x", Float64),
            ]
        },
        ["view 'weather' changed"],
    ),
    "a column less": ({"columns": [Column("temp", Float32)]}, ["view 'weather' changed"]),
    "columns in another order": (
        {"columns": [Column("sky", String, default="clear"), Column("temp", Float32)]},
        ["view 'weather' changed"],
    ),
    "another default": (
        {"columns": [Column("temp", Float32, default=1), Column("sky", String)]},
        ["view 'weather' changed"],
    ),
    "another age": ({"max_age": "1h"}, ["view 'weather' changed"]),
    "other policies": ({"on_missing": "fail"}, ["view 'weather' changed"]),
    "another owner": ({"owner": "ops"}, ["view 'weather' changed"]),
    "a new entity": ({"extra": [Entity("plane", keys={"tail": String})]}, ["new entity 'plane'"]),
    "a new input": ({"extra": [Input("distance", Float32)]}, ["new input 'distance'"]),
    "a new feature": (
        {"extra": [_on_demand()]},
        ["new input 'distance'", "new on-demand feature 'far'"],
    ),
    "a new service": (
        {"extra": [FeatureService("t", [Input("distance", Float32)])]},
        ["new input 'distance'", "new service 't'"],
    ),
    "a new view": (
        {
            "extra": [
                FeatureView(
                    "planes",
                    entity=Entity("plane", keys={"tail": String}),
                    columns=[Column("n", Int32)],
                )
            ]
        },
        ["new entity 'plane'", "new view 'planes'"],
    ),
}


@pytest.mark.parametrize("change", COMPATIBLE)
def test_compatible_changes_make_the_next_revision(change: str) -> None:
    arguments, told = COMPATIBLE[change]
    old, new = _applied(), _manifest(**arguments)
    assert incompatibilities(old, new) == []
    followed, what = follow(old, new)
    assert what == told
    assert followed.revision == 4
    assert decode_manifest(encode_manifest(followed), "x") == followed
    assert follow(followed, new) == (followed, [])  # applied once more: nothing happens


def test_what_is_gone_is_told() -> None:
    extra = [
        FeatureView(
            "planes", entity=Entity("plane", keys={"tail": String}), columns=[Column("n", Int32)]
        )
    ]
    followed, told = follow(_applied(extra=extra), _manifest())
    assert told == ["entity 'plane' is gone", "view 'planes' is gone"]
    assert followed.revision == 4
    old = msgspec.structs.replace(_applied(), code="f.py", code_digest="1")
    new = msgspec.structs.replace(_manifest(), code="f.py", code_digest="2")
    assert follow(old, new)[1] == ["the functions of on-demand features changed"]


INCOMPATIBLE: dict[str, tuple[Callable[[], Manifest], str]] = {
    "another project": (
        lambda: _manifest(project="q"),
        "the project was 'p' and is 'q': its rows would not be found; apply it to another folder",
    ),
    "a key more": (
        lambda: _manifest(keys={"origin": String, "dest": String, "n": Int64}),
        "entity 'route' changed its keys: rows in the store would not be found; define an entity of another name",
    ),
    "a key of another type": (
        lambda: _manifest(keys={"origin": String, "dest": Int64}),
        "entity 'route' changed its keys",
    ),
    "a key of another name": (
        lambda: _manifest(keys={"origin": String, "to": String}),
        "entity 'route' changed its keys",
    ),
    "keys in another order": (
        lambda: _manifest(keys={"dest": String, "origin": String}),
        "entity 'route' changed its keys",
    ),
    "another entity": (
        lambda: _manifest(entity=Entity("plane", keys={"tail": String})),
        "view 'weather' moved from entity 'route' to 'plane'; define a view of another name",
    ),
    "a new column without default": (
        lambda: _manifest(
            columns=[
                Column("temp", Float32),
                Column("sky", String, default="clear"),
                Column("n", Int32),
            ]
        ),
        "view 'weather' has a new column 'n' without a default: rows that were written before have no value for it",
    ),
    "a column of another type": (
        lambda: _manifest(
            columns=[Column("temp", Float64), Column("sky", String, default="clear")]
        ),
        "column 'weather.temp' was float32 and is float64; give it another name",
    ),
    "a service with more inputs": (
        lambda: _manifest(service=["temp", "sky"]),
        "would be given others; define 's_v2' (or the like) beside it",
    ),
    "a service with other inputs": (
        lambda: _manifest(service=["sky"]),
        "feature service 's' changed its inputs",
    ),
}


@pytest.mark.parametrize("change", INCOMPATIBLE)
def test_incompatible_changes_are_refused_in_words(change: str) -> None:
    make, sentence = INCOMPATIBLE[change]
    old, new = _applied(), make()
    (problem,) = incompatibilities(old, new)
    assert sentence in problem
    with pytest.raises(DefinitionError) as refused:
        follow(old, new)
    assert str(refused.value) == f"not compatible with revision 3, which is applied:\n  - {problem}"


@pytest.mark.parametrize("change", INCOMPATIBLE)
def test_force_takes_them_and_tells(change: str) -> None:
    new = INCOMPATIBLE[change][0]()
    followed, told = follow(_applied(), new, force=True)
    assert followed.revision == 4
    if change != "another project":
        assert told
    assert [list(one.keys) for one in followed.entities] == [list(one.keys) for one in new.entities]


def test_inputs_of_a_service_in_another_order() -> None:
    old, new = _applied(service=["temp", "sky"]), _manifest(service=["sky", "temp"])
    assert len(incompatibilities(old, new)) == 1


def test_all_problems_at_once() -> None:
    new = _manifest(
        keys={"origin": String},
        columns=[Column("temp", Int32), Column("n", Int32)],
        service=["n"],
    )
    assert len(incompatibilities(_applied(), new)) == 4


def test_older_schemas_are_carried_along_newest_first() -> None:
    def columns(count: int) -> list[Column]:
        return [Column("temp", Float32)] + [Column(f"c{i}", Float32) for i in range(count)]

    followed, _ = follow(None, _manifest(columns=columns(0)))
    for count in range(1, MAX_OLDER_SCHEMAS + 4):
        followed, _ = follow(followed, _manifest(columns=columns(count)))
    older = followed.view("weather").older
    assert [len(one) for one in older] == list(range(count, count - MAX_OLDER_SCHEMAS, -1))
    assert older[0][:2] == [("temp", "float32"), ("c0", "float32")]
    # A change of nothing but a time keeps them.
    same, _ = follow(followed, _manifest(columns=columns(count), max_age="1h"))
    assert same.view("weather").older == older


def test_going_back_to_a_schema_before() -> None:
    narrow, wide = [Column("temp", Float32)], [Column("temp", Float32), Column("x", Float32)]
    first, _ = follow(None, _manifest(columns=narrow))
    second, _ = follow(first, _manifest(columns=wide))
    third, _ = follow(second, _manifest(columns=narrow))
    assert third.view("weather").older == [[("temp", "float32"), ("x", "float32")]]
    assert [one.id for one in third.view("weather").older_schemas] == [
        second.view("weather").schema.id
    ]
    assert third.revision == 3


def test_changes_do_not_mention_what_is_carried_along() -> None:
    first, _ = follow(None, _manifest(columns=[Column("temp", Float32)]))
    second, _ = follow(first, _manifest())
    assert changes(second, _manifest()) == []


def _ratio(divisor: Input, output: Column) -> object:
    return on_demand(inputs=[divisor], output=output)(lambda d: d)


def test_values_that_become_others_under_the_same_name_are_refused() -> None:
    distance = Input("distance", Float32)
    old = _applied(extra=[distance, _ratio(distance, Column("far", Float32))])
    other_type = _manifest(extra=[Input("distance", Float64)])
    assert incompatibilities(old, other_type) == [
        "input 'distance' was float32 and is float64; give it another name"
    ]
    for changed in (
        _ratio(distance, Column("far", Float64)),
        _ratio(Input("height", Float32), Column("far", Float32)),
    ):
        assert incompatibilities(old, _manifest(extra=[distance, changed])) == [
            "on-demand feature 'far' changed its type or its inputs; give it another name"
        ]


# ---- there and back ------------------------------------------------------------------------------


def _everything(far: object, columns: list[Column], *, as_it_was: bool = True) -> list[object]:
    plane = Entity("plane", keys={"tail": String if as_it_was else Int64})
    seats = FeatureView("seats", entity=plane, columns=columns)
    named: list[Any] = [seats["n"], *([] if as_it_was else [Input("height", Float32)])]
    return [plane, seats, far, FeatureService("t", named)]


def test_what_went_may_come_back_as_it_was_only() -> None:
    distance, n = Input("distance", Float32), [Column("n", Int32)]
    whole = _everything(_ratio(distance, Column("far", Float32)), n)
    first, _ = follow(None, _manifest(extra=whole))
    without = decode_manifest(encode_manifest(follow(first, _manifest())[0]), "x")
    assert without.gone is not None
    assert [one.name for one in without.gone.services] == ["t"]
    other_distance = Input("distance", Float64)
    changed = _everything(
        _ratio(other_distance, Column("far", Float64)), [Column("n", Float64)], as_it_was=False
    )
    assert [one.split(";")[0] for one in incompatibilities(without, _manifest(extra=changed))] == [
        "entity 'plane' changed its keys: rows in the store would not be found",
        "column 'seats.n' was int32 and is float64",
        "input 'distance' was float32 and is float64",
        "on-demand feature 'far' changed its type or its inputs",
        "feature service 't' changed its inputs: models trained on them would be given others",
    ]
    back, told = follow(without, _manifest(extra=whole))
    assert "new service 't'" in told
    assert back.gone is None
    assert back.digest == first.digest
    forced, _ = follow(without, _manifest(extra=changed), force=True)
    assert forced.gone is None


def test_a_view_that_comes_back_reads_all_its_rows() -> None:
    def with_seats(*columns: Column) -> Manifest:
        plane = Entity("plane", keys={"tail": String})
        return _manifest(extra=[FeatureView("seats", entity=plane, columns=list(columns))])

    a, b, c = (Column(name, Float32) for name in "abc")
    manifest, _ = follow(None, with_seats(a))
    for following in (with_seats(a, b), _manifest(), _manifest(owner="ops"), with_seats(a, b, c)):
        manifest, _ = follow(manifest, following)
    names = [[name for name, _ in one] for one in manifest.view("seats").older]
    assert names == [["a", "b"], ["a"]]
    assert follow(manifest, with_seats(a, b, c)) == (manifest, [])


def test_a_column_that_comes_back_keeps_its_type() -> None:
    first, _ = follow(None, _manifest())
    without, _ = follow(first, _manifest(columns=[Column("temp", Float32)]))
    again = _manifest(columns=[Column("temp", Float32), Column("sky", Float32)])
    assert incompatibilities(without, again) == [
        "column 'weather.sky' was string and is float32; give it another name"
    ]
    forced, _ = follow(without, again, force=True)  # which is settled by that
    assert incompatibilities(forced, again) == []


def test_what_went_is_remembered_within_bounds() -> None:
    manifest, _ = follow(None, _manifest())
    for number in range(MAX_GONE + 3):
        manifest, _ = follow(manifest, _manifest(extra=[Input(f"i{number}", Float32)]))
    assert manifest.gone is not None
    gone = [one.name for one in manifest.gone.inputs]
    assert gone == [f"i{number}" for number in range(MAX_GONE + 1, 1, -1)]
    large = Input("large", Float32, description="x" * (MAX_GONE_BYTES // 2))
    for name in ("small", "larger"):
        other = Input(name, Float32, description=large.description)
        manifest, _ = follow(manifest, _manifest(extra=[other]))
    manifest, _ = follow(manifest, _manifest())
    assert manifest.gone is not None
    assert [one.name for one in manifest.gone.inputs] == ["larger"]


def test_another_project_remembers_nothing_of_the_one_before() -> None:
    first, _ = follow(None, _manifest(extra=[Input("a", Float32)]))
    second, _ = follow(first, _manifest())
    third, _ = follow(second, _manifest(project="q"), force=True)
    assert third.gone is None
