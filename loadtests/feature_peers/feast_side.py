"""How long feast's own SDK takes to look features up; runs in feast's own venv and imports only what is there.

usage: python feast_side.py --parquet FILE (--port PORT | --socket PATH) [--entities 1,100,500] [--iterations 300]

FILE has the columns entity (text or whole numbers), event_timestamp, f0..f49 (float32). They are written into the
server through feast twice: as one view of 50 features and as five of 10. Then ``get_online_features`` is timed for
entities drawn at random, alone and with ``to_dict()`` (which is when a caller has plain values); and the same for
services with precomputed vectors, where this version of feast has them. One JSON object on stdout, times in µs.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ["FEAST_USAGE"] = "False"

import feast
import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast.infra.online_stores.redis import RedisOnlineStoreConfig
from feast.online_response import OnlineResponse
from feast.types import Float32, Int64, String

PROJECT = "headrace_bench"
FEATURES = 50
SPLITS = {"one_view": 1, "five_views": 5}
WARM_UP_CALLS = 20
MAX_CASE_S = 30.0
SEED = 7

Call = Callable[[list[dict[str, object]]], Any]


def store_at(folder: Path, connection: str) -> FeatureStore:
    """Feast as a file on disk describes it, with its online rows at ``connection``."""
    return FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(folder / "registry.db"),
            online_store=RedisOnlineStoreConfig(connection_string=connection),
            entity_key_serialization_version=3,
        )
    )


def entity_of(is_text: bool) -> Entity:
    """What the features are about."""
    kind = ValueType.STRING if is_text else ValueType.INT64
    return Entity(name="entity", join_keys=["entity"], value_type=kind)


def views_of(split: int, parquet: Path, is_text: bool) -> list[FeatureView]:
    """The 50 features in ``split`` views of the same entity."""
    key = Field(name="entity", dtype=String if is_text else Int64)
    each = FEATURES // split
    return [
        FeatureView(
            name=f"bench{split}_{place}",
            entities=[entity_of(is_text)],
            ttl=timedelta(days=3650),
            schema=[key] + [Field(name=f"f{place * each + i}", dtype=Float32) for i in range(each)],
            source=FileSource(
                name=f"bench{split}_{place}_source",
                path=str(parquet),
                timestamp_field="event_timestamp",
            ),
        )
        for place in range(split)
    ]


def service_of(name: str, views: list[FeatureView], precompute: bool) -> FeatureService:
    """All of the views; with vectors made beforehand if that is asked."""
    if precompute:
        return FeatureService(name=name, features=views, precompute_online=True)
    return FeatureService(name=name, features=views)


def has_precomputed_vectors() -> bool:
    """Whether this version of feast knows them."""
    return "precompute_online" in inspect.signature(FeatureService.__init__).parameters


def written(store: FeatureStore, views: list[FeatureView], frame: pd.DataFrame) -> float:
    """Seconds that feast took to write all rows."""
    began_s = time.perf_counter()
    for view in views:
        names = [field.name for field in view.features]
        store.write_to_online_store(view.name, df=frame[["entity", "event_timestamp", *names]])
    return time.perf_counter() - began_s


def timed(call: Call, ids: list[object], entities: int, iterations: int) -> dict[str, object]:
    """Percentiles over calls for ``entities`` different entities each, after a warm-up."""
    dice = random.Random(SEED)

    def rows() -> list[dict[str, object]]:
        return [{"entity": one} for one in dice.sample(ids, entities)]

    for _ in range(WARM_UP_CALLS):
        call(rows())
    took: list[float] = []
    cpu_s = 0.0
    give_up_s = time.perf_counter() + MAX_CASE_S
    while len(took) < iterations and time.perf_counter() < give_up_s:
        wanted = rows()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        call(wanted)
        took.append((time.perf_counter() - began_s) * 1e6)
        cpu_s += time.process_time() - began_cpu_s
    took.sort()
    return {
        "iterations": len(took),
        "min_us": round(took[0], 1),
        "p50_us": round(took[len(took) // 2], 1),
        "p99_us": round(took[min(len(took) - 1, int(len(took) * 0.99))], 1),
        "mean_us": round(sum(took) / len(took), 1),
        "cpu_mean_us": round(
            cpu_s * 1e6 / len(took), 1
        ),  # of this process: what a busy machine does not change
    }


def calls_of(store: FeatureStore, service: FeatureService) -> Iterator[tuple[str, Call]]:
    """What is timed: the call alone, and the call until plain values are there."""

    def ask(rows: list[dict[str, object]]) -> OnlineResponse:
        # Precomputed vectors are found under full names only.
        return store.get_online_features(service, rows, full_feature_names=True)

    yield "response", ask
    yield "to_dict", lambda rows: ask(rows).to_dict()


def checked(store: FeatureStore, service: FeatureService, frame: pd.DataFrame) -> None:
    """Ends the run when feast does not give back what was written."""
    first = frame.iloc[0]
    entity = first["entity"].item() if hasattr(first["entity"], "item") else first["entity"]
    ask = dict(calls_of(store, service))["to_dict"]
    found = {name.rpartition("__")[2]: value for name, value in ask([{"entity": entity}]).items()}
    for i in range(FEATURES):
        name = f"f{i}"
        if found[name] != [float(first[name])]:
            sys.exit(f"feast gives {found[name]} for {name} of {entity!r}, not {first[name]!r}")


def measure(store: FeatureStore, parquet: Path, options: argparse.Namespace) -> dict[str, object]:
    """Write, check, time."""
    frame = pd.read_parquet(parquet)
    is_text = not pd.api.types.is_integer_dtype(frame["entity"])
    ids = frame["entity"].tolist()
    report: dict[str, object] = {
        "feast": feast.__version__,
        "python": platform.python_version(),
        "rows": len(frame),
        "features": FEATURES,
    }
    cases: list[dict[str, object]] = []
    for split_name, split in SPLITS.items():
        views = views_of(split, parquet, is_text)
        kinds = {"fields": False, **({"precomputed": True} if has_precomputed_vectors() else {})}
        services = {
            kind: service_of(f"{kind}_{split_name}", views, vectors)
            for kind, vectors in kinds.items()
        }
        store.apply([entity_of(is_text), *views, *services.values()])
        report[f"write_{split_name}_s"] = round(written(store, views, frame), 2)
        for kind, service in services.items():
            if kind == "precomputed":
                began_s = time.perf_counter()
                store.precompute_feature_service(service.name)
                report[f"precompute_{split_name}_s"] = round(time.perf_counter() - began_s, 2)
            checked(store, service, frame)
            for until, call in calls_of(store, service):
                for entities in options.entities:
                    took = timed(call, ids, entities, options.iterations)
                    cases.append(
                        {
                            "store": kind,
                            "views": split,
                            "until": until,
                            "entities": entities,
                            **took,
                        }
                    )
    report["cases"] = cases
    return report


def main() -> None:
    """Reads the options, prints the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parquet", type=Path, required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int)
    where.add_argument("--socket")
    parser.add_argument(
        "--entities", type=lambda text: [int(one) for one in text.split(",")], default=[1, 100, 500]
    )
    parser.add_argument("--iterations", type=int, default=300)
    options = parser.parse_args()
    connection = f"127.0.0.1:{options.port or 0}"
    if options.socket:
        connection += f",unix_socket_path={options.socket}"
    with tempfile.TemporaryDirectory() as folder:
        report = measure(store_at(Path(folder), connection), options.parquet.resolve(), options)
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
