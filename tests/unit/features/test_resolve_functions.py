"""Whole requests that cannot be completed, and those with on-demand features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featurecache.definitions import (
    Column,
    FeatureService,
    FeatureView,
    Float32,
    Float64,
    Input,
    Int32,
    Project,
    String,
    Vector,
    on_demand,
)
from featurecache.errors import FeatureError, UnfillableError
from featurecache.joining.assembly import ModelInput
from featurecache.joining.on_demand import Computed, Functions
from featurecache.lookups.lookup_waiting import UNREACHABLE
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.manifest import Manifest
from featurecache.status import Status
from tests.unit.features.feature_plans import (
    complete,
    floats,
    plan_of,
    texts,
)
from tests.unit.features.request_cases import (
    AIRPORT,
    DELAY,
    DISTANCE,
    WEATHER,
    X,
    delay,
    numbers,
    weather,
)

# -- what cannot be completed ---------------------------------------------------------------------


def test_integer_columns_without_default_fail_the_request() -> None:
    view = FeatureView("v", entity=AIRPORT, columns=[Column("n", Int32)])
    plan = plan_of(FeatureService("s", [view["n"]]), X)
    with pytest.raises(UnfillableError, match="its column 'n' has no default") as refused:
        complete(plan, [texts(b"a", b"b")], {})
    assert refused.value.status is Status.MISSING
    with pytest.raises(UnfillableError) as refused:
        complete(plan, [texts(b"a")], {b"hr:p:{airport:a}:v": UNREACHABLE})
    assert refused.value.status is Status.DEFAULTED
    # A caller who names no entity is told the same.
    with pytest.raises(UnfillableError, match="has no row for an entity of the request"):
        complete(plan, [texts(b"")], {})


def test_the_share_of_defaults_counts_values() -> None:
    plan = plan_of(
        FeatureService("s", [WEATHER["wind"], WEATHER["sky"], DELAY["late"]]),
        ModelInput("wind", "FP32", (-1, 1)),
        ModelInput("sky", "BYTES", (-1, 1)),
        ModelInput("late", "FP64", (-1, 1)),
    )
    inputs = [texts(b"JFK", b"LGA"), texts(b"UA", b"UA"), numbers(1, 2)]
    store = weather(b"LGA", wind=None) | delay(b"UA|1", 1) | delay(b"UA|2", None)
    filled = complete(plan, inputs, store)
    assert (filled.defaulted_values, filled.values) == (2, 6)  # nulls were written as such
    assert filled.defaulted_fraction == pytest.approx(1 / 3)


# -- on-demand features ---------------------------------------------------------------------------


def _functions(manifest: Manifest, *features: Any) -> Functions:
    """The real functions, without the file that they would come from."""
    bools = {"open"}
    return Functions(
        {
            one.name: Computed(
                manifest.on_demand_feature(one.name),
                one.function,
                [ref.column in bools for ref in manifest.on_demand_feature(one.name).inputs],
            )
            for one in features
        }
    )


def test_functions_see_columns_and_feed_each_other() -> None:
    seen: list[Any] = []

    @on_demand(
        inputs=[
            WEATHER["hourly"],
            DISTANCE,
            WEATHER["sky"],
            AIRPORT["origin"],
            WEATHER["open"],
            Input("v", Vector(Float32, 1)),
        ],
        output=Column("total", Float32),
    )
    def total(*columns: Any) -> Any:
        seen.extend((one.shape, one.dtype, one.tolist()) for one in columns)
        return columns[0].sum(axis=1) + columns[1]

    @on_demand(inputs=[total], output=Column("pair", Vector(Float64, 2)))
    def pair(values: Any) -> Any:
        return np.stack([values, -values], axis=1)

    @on_demand(inputs=[AIRPORT["origin"]], output=Column("shout", String))
    def shout(names: Any) -> Any:
        return [one.decode().upper() for one in names]

    service = FeatureService("s", {"x": [pair, total], "name": [shout]})
    manifest = compile_manifest([Project("p"), service])
    plan = plan_of(
        service,
        X,
        ModelInput("name", "BYTES", (-1,)),
        manifest=manifest,
        functions=_functions(manifest, total, pair, shout),
    )
    assert [one.name for one in plan.client_inputs] == ["origin", "distance", "v"]
    inputs = [texts(b"jfk", b"lga"), floats(10, 20), floats(1, 2)]
    found = complete(plan, inputs, weather(b"jfk") | weather(b"lga", hourly=[1, 1])).tensors
    assert found[0].tolist() == [[17, -17, 17], [22, -22, 22]]
    assert found[1].tolist() == [b"JFK", b"LGA"]
    assert seen == [
        ((2, 2), np.dtype("f4"), [[3, 4], [1, 1]]),
        ((2,), np.dtype("f4"), [10, 20]),
        ((2,), np.dtype(object), [b"fog", b"fog"]),
        ((2,), np.dtype(object), [b"jfk", b"lga"]),
        ((2,), np.dtype(bool), [False, False]),
        ((2, 1), np.dtype("f4"), [[1], [2]]),  # a vector of one is a vector
    ]


def test_functions_that_fail_name_their_feature() -> None:
    @on_demand(inputs=[DISTANCE], output=Column("bad", Float32))
    def bad(distance: Any) -> Any:
        raise ZeroDivisionError("x")

    service = FeatureService("s", [bad])
    manifest = compile_manifest([Project("p"), service])
    plan = plan_of(service, X, manifest=manifest, functions=_functions(manifest, bad))
    with pytest.raises(FeatureError, match="on-demand feature 'bad' fails: ZeroDivisionError: x"):
        complete(plan, [floats(1)], {})
