"""A training set of a service with everything: several views, one of them asked twice, keys, inputs, computed ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurecache.definitions import (
    Column,
    FeatureService,
    FeatureView,
    Float32,
    Input,
    Int64,
    ParquetSource,
    on_demand,
)
from featurecache.joining.on_demand import Computed, Functions
from featurecache.manifests.manifest import Manifest
from featurecache.offline.training_set import Spine, build
from featurecache.status import Status
from tests.unit.features.training_files import (
    AIRPORT,
    OPTIONS,
    ROUTE,
    manifest_of,
    rename,
    weather_view,
    write_source,
    write_times,
)


def _service() -> tuple[Manifest, Callable[..., Any]]:
    """Definitions, and the code of ``chill``."""
    weather = weather_view()
    load = FeatureView(
        "load",
        entity=ROUTE,
        source=ParquetSource("load.parquet", event_time="t"),
        columns=[Column("seats", Int64, default=0)],
    )
    distance = Input("distance", Float32)

    @on_demand(inputs=[weather["temp"], distance], output=Column("chill", Float32))
    def chill(temp: Any, distance: Any) -> Any:
        return temp - distance

    service = FeatureService(
        "flights",
        {
            "x": [distance, weather["temp"], weather.by(origin="dest")["temp"], chill],
            "y": [load["seats"], AIRPORT["origin"], weather["temp"]],
        },
    )
    return manifest_of(service), chill.function


def _write_files(folder: Path) -> None:
    write_source(folder / "weather" / "a.parquet", [("JFK", 1, 10), ("LGA", 1, 20)])
    write_times(
        folder,
        "load.parquet",
        pa.timestamp("us"),
        [1, 2],
        origin=["JFK", "JFK"],
        number=pa.array([7, 8], pa.int32()),
        seats=pa.array([70, 80], pa.uint8()),
    )
    rename(folder / "load.parquet", {"at": "t"})
    write_times(
        folder,
        "spine.parquet",
        pa.timestamp("us"),
        [5, 5, 5],
        origin=pa.array(["JFK", "LGA", "JFK"]).dictionary_encode(),
        dest=["LGA", "JFK", None],
        number=[8, 7, 7],
        distance=[1.5, 2.5, None],
        id=["a", "b", "c"],
    )


EXPECTED: Mapping[str, list[Any]] = {
    "id": ["a", "b", "c"],
    "distance": [1.5, 2.5, np.nan],
    "weather__temp": [10, 20, 10],
    "weather_origin_dest__temp": [20, 10, np.nan],
    "chill": [8.5, 17.5, np.nan],
    "load__seats": [80, 0, 70],
    "origin": ["JFK", "LGA", "JFK"],
    "weather__status": [0, 0, 0],
    "weather_origin_dest__status": [0, 0, Status.MISSING],
    "load__status": [0, Status.MISSING, 0],
}


def test_several_views_keys_inputs_and_on_demand_features(tmp_path: Path) -> None:
    _write_files(tmp_path)
    manifest, function = _service()
    computed = Computed(manifest.on_demand_feature("chill"), function, [False, False])
    steps: list[tuple[str, int, int]] = []
    card = build(
        manifest,
        "flights",
        Spine(str(tmp_path / "sp*.parquet"), "at", keep=["id"]),
        tmp_path,
        tmp_path / "out.parquet",
        functions=Functions({"chill": computed}),
        options=OPTIONS,
        progress=lambda *step: steps.append(step),
    )
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == list(EXPECTED)
    for name, values in EXPECTED.items():
        np.testing.assert_array_equal(table.column(name).to_pylist(), values, err_msg=name)
    assert table.schema.field("chill").type == pa.float32()
    assert card.tensors == {
        "x": ["distance", "weather__temp", "weather_origin_dest__temp", "chill"],
        "y": ["load__seats", "origin", "weather__temp"],
    }
    assert b'"service":"flights"' in table.schema.metadata[b"headrace"]
    assert steps[0] == ("check weather", 0, 2)
    assert ("join weather", 0, 3) in steps
    assert ("write", 3, 3) in steps
