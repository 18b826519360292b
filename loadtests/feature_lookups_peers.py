"""Decides how lookups stand beside Feast's: the same rows, the same kind of socket, in turn, each in its own process.

The stores are on the server's core and whoever asks on the load's. Feast's own SDK runs in a venv of its own. Our whole
HTTP call, one at a time, stands beside both for scale. It must never compare a way of Feast's that is not its quickest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from loadtests import feature_lookups_data as data
from loadtests import feature_lookups_load
from loadtests.feature_lookups_data import Variant
from loadtests.feature_lookups_load import Bench
from loadtests.feature_lookups_stage import said_by, store, write_parquet
from loadtests.feature_lookups_verdict import PeerCase, Results
from loadtests.measured import median

ENTITIES = (1, 100, 500)
VIEWS: dict[int, Variant] = {1: "miss", data.PARTS: "parts"}
FEAST, OURS, WHOLE_CALL = "feast", "lookup in process", "whole HTTP call"
_FEAST_SIDE = Path(__file__).with_name("feature_peers") / "feast_side.py"
_TIMEOUT_S = 900.0


class Case(msgspec.Struct):
    """As both sides print it."""

    store: str
    views: int
    until: str
    entities: int
    min_us: float
    p50_us: float
    p99_us: float
    cpu_mean_us: float


class Said(msgspec.Struct):
    """What a side prints; Feast's says its version."""

    cases: list[Case]
    feast: str = ""


def feast_python() -> Path:
    """Of the venv that ``scripts/feast_venv.sh`` makes."""
    return Path(os.environ.get("FEAST_VENV", ".bench/feast/venv")) / "bin" / "python"


def measure(
    bench: Bench, folder: Path, round_number: int, iterations: int, seconds: float
) -> Iterator[tuple[list[PeerCase], str]]:
    """One round: Feast, ours, our whole call; each with Feast's version where that is known."""
    parquet = folder / "feature-lookups" / "peers.parquet"
    if not parquet.exists():
        write_parquet(parquet, data.HOT, data.FEATURES)
    with store(bench.server_core) as theirs:
        script = str(_FEAST_SIDE)
        options: dict[str, object] = {
            "parquet": parquet,
            "socket": theirs.socket,
            "iterations": iterations,
            "entities": _listed(),
        }
        said = _decoded(
            said_by([script], bench.load_core, _TIMEOUT_S, options, str(feast_python()))
        )
        yield (
            [_case(round_number, f"{FEAST}, {one.store}, {one.until}", one) for one in said.cases],
            said.feast,
        )
    options = {
        "manifest": bench.stage.manifest,
        "url": bench.stage.store.url,
        "iterations": iterations,
        "entities": _listed(),
    }
    ours = _decoded(
        said_by(["-m", "loadtests.feature_peers.ours_side"], bench.load_core, _TIMEOUT_S, options)
    )
    yield [_case(round_number, OURS, one) for one in ours.cases], ""
    yield (
        [
            _whole_call(bench, round_number, views, variant, entities, seconds)
            for views, variant in VIEWS.items()
            for entities in ENTITIES
        ],
        "",
    )


def _whole_call(
    bench: Bench, round_number: int, views: int, variant: Variant, entities: int, seconds: float
) -> PeerCase:
    load = feature_lookups_load.run(
        bench, "http", variant, entities, seconds, round_number, alone=True
    )
    p50_us, p99_us = load.p50_ms * 1e3, load.p99_ms * 1e3
    return PeerCase(
        round_number, WHOLE_CALL, views, entities, p50_us, p99_us, load.least_ms * 1e3, None
    )


def _listed() -> str:
    return ",".join(map(str, ENTITIES))


def _decoded(said: bytes) -> Said:
    return msgspec.json.decode(said, type=Said)


def _case(round_number: int, who: str, one: Case) -> PeerCase:
    return PeerCase(
        round_number,
        who,
        one.views,
        one.entities,
        one.p50_us,
        one.p99_us,
        one.min_us,
        one.cpu_mean_us,
    )


def compared(results: Results) -> list[tuple[int, int, str, Sequence[PeerCase]]]:
    """(views, entities, who, rounds), Feast by the way of its own that is quickest there."""
    found: list[tuple[int, int, str, Sequence[PeerCase]]] = []
    for views in VIEWS:
        for entities in ENTITIES:
            here = [one for one in results.peers if (one.views, one.entities) == (views, entities)]
            ways = dict.fromkeys(one.who for one in here)
            feast = [who for who in ways if who.startswith(FEAST)]
            chosen = [min(feast, key=lambda who, of=here: _p50(of, who))] if feast else []  # type: ignore[misc]
            for who in (*chosen, OURS, WHOLE_CALL):
                rounds = [one for one in here if one.who == who]
                if rounds:
                    found.append((views, entities, who, rounds))
    return found


def _p50(cases: Sequence[PeerCase], who: str) -> float:
    middle = median(one.p50_us for one in cases if one.who == who)
    assert middle is not None
    return middle
