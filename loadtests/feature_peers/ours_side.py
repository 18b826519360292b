"""How long this project's own lookups take in process: the counterpart of ``feast_side.py``, timed the same way.

From entity ids to the model's input tensor: the rows that are wanted, one read of the store without any copies, checks,
decoding and assembly. One JSON object on stdout, times in µs. It must never keep copies of rows: its peer keeps none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from math import inf
from pathlib import Path

import numpy as np
import numpy.typing as npt
import uvloop

from featurecache.joining.assembly import ModelInput
from featurecache.joining.resolve import Filled, ServicePlan
from featurecache.lookups.lookup import RowLookup
from featurecache.lookups.lookup_limits import LookupLimits
from featurecache.manifests.manifest import decode_manifest
from featurecache.sources.opening import open_source
from loadtests import feature_lookups_data as data

SERVICES = {1: "wide", data.PARTS: "parts"}
WARM_UP_CALLS = 20
SEED = 7
Ids = npt.NDArray[np.object_]


class Asker:
    """What the gateway does for one request, less the gateway."""

    def __init__(self, plan: ServicePlan, lookup: RowLookup) -> None:
        self._plan, self._lookup = plan, lookup
        self._loop = asyncio.get_running_loop()

    async def ask(self, ids: Ids) -> Filled:
        """The tensor for these entities."""
        wanted = self._plan.wanted((ids,), ())
        found = self._lookup.ask(wanted.views, inf)
        if not found.settled:
            came = self._loop.create_future()
            found.on_done = lambda: came.set_result(None)
            await came
        return self._plan.fill((ids,), wanted, found, time.time_ns() // 1000)


async def timed(asker: Asker, entities: int, iterations: int) -> dict[str, float]:
    """Percentiles over calls for so many different entities each, after a warm-up."""
    dice = random.Random(SEED)
    table = data.values(data.HOT)

    def drawn() -> tuple[list[int], Ids]:
        numbers = dice.sample(range(data.HOT), entities)
        ids = np.array([data.entity_id(one).encode() for one in numbers], np.object_)
        return numbers, ids.reshape(-1, 1)

    for _ in range(WARM_UP_CALLS):
        numbers, ids = drawn()
        [tensor] = (await asker.ask(ids)).tensors
        if not np.array_equal(tensor, table[numbers]):
            sys.exit("what was looked up is not what was written")
    took: list[float] = []
    cpu_s = 0.0
    for _ in range(iterations):
        _, ids = drawn()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        await asker.ask(ids)
        took.append((time.perf_counter() - began_s) * 1e6)
        cpu_s += time.process_time() - began_cpu_s
    took.sort()
    return {
        "iterations": len(took),
        "min_us": round(took[0], 1),
        "p50_us": round(took[len(took) // 2], 1),
        "p99_us": round(took[min(len(took) - 1, int(len(took) * 0.99))], 1),
        "mean_us": round(sum(took) / len(took), 1),
        "cpu_mean_us": round(cpu_s * 1e6 / len(took), 1),
    }


async def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    """Every case."""
    manifest = decode_manifest(options.manifest.read_bytes(), "manifest")
    source = open_source(options.url)
    loop = asyncio.get_running_loop()
    lookup = RowLookup(
        source,
        loop=loop,
        clock=time.monotonic,
        limits=LookupLimits(near_cache_bytes=0, negative_bytes=0),
        random_unit=random.random,
    )
    await source.start()
    target = ModelInput(data.INPUT, "FP32", (-1, data.FEATURES))
    cases: list[dict[str, object]] = []
    try:
        for views, service in SERVICES.items():
            plan = ServicePlan(manifest, manifest.service(service), [target], {})
            for entities in options.entities:
                took = await timed(Asker(plan, lookup), entities, options.iterations)
                told = {"store": "packed", "views": views, "until": "tensor", "entities": entities}
                cases.append({**told, **took})
    finally:
        await source.close()
    return cases


def main() -> None:
    """Reads the options, prints the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument(
        "--entities", type=lambda text: [int(one) for one in text.split(",")], default=[1, 100, 500]
    )
    parser.add_argument("--iterations", type=int, default=300)
    json.dump({"cases": uvloop.run(measure(parser.parse_args()))}, sys.stdout)


if __name__ == "__main__":
    main()
