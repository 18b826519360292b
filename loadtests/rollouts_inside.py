"""The part of the rollouts bench that uses the product's own packages, in a process of its own.

Drives the gateway's whole stack from JSON body to reply body without sockets: without rollouts, with them and without
a plan, and with plans of every kind of key, in turn within every round. One JSON value on stdout. It must never replace
a part of the stack by something quicker, nor be imported by the command that measures servers.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop

from backends.manager import load_repository
from foundation.core_wanted import wanted_clocks
from gateway.edge.json_codec import decode_infer
from gateway.messages import ModelStatus
from gateway.mirroring import QuietWorker
from gateway.pipeline.workers import ThreadWorker
from gateway.rollout_routing import RolloutPlans
from gateway.serving import Serving
from gateway.settings import GatewaySettings
from loadtests import json_payload
from loadtests.models import INPUT, TINY, model_path
from loadtests.models import write_repository as write_models
from loadtests.pipeline_bench import BenchCall
from loadtests.rollouts_verdict import MICRO, NO_PLAN, NO_ROLLOUTS
from rollout.controller import apply, submit
from rollout.plan import Event, Proposal, Step, Sticky
from rollout.ports import Stored
from rollout.transitions import Author, Change, Refused

CONCURRENT = 32
BLOCK_REQUESTS = 20 * CONCURRENT
"""Of one case before the next one's turn: some tens of ms, so that a slow moment of the machine meets all cases."""
SOURCES = {
    "request_id": "request_id",
    "header": "header:x-user",
    "parameter": "parameter:user",
    "input": f"input:{INPUT}",
}
HEADERS = (
    (b"host", b"127.0.0.1:8000"),
    (b"content-type", b"application/json"),
    (b"content-length", b"500"),
    (b"x-user", b"u17"),
    (b"user-agent", b"bench"),
    (b"accept", b"*/*"),
)


def infer_body() -> bytes:
    """The same for every case: with an id, and with a parameter that only one of the plans wants."""
    document = msgspec.json.decode(json_payload.infer_body())
    document["id"] = "request-17"
    document["parameters"] = {"user": "u17"}
    return msgspec.json.encode(document)


def write_repository(root: Path) -> Path:
    """The tiny model by the name of every case; those with a plan have two equal versions."""
    source = model_path(write_models(root / "source"), TINY)
    for name in MICRO:
        for version in ("1", "2") if name in SOURCES else ("1",):
            place = root / "models" / name / version
            place.mkdir(parents=True)
            shutil.copyfile(source, place / "model.onnx")
    return root / "models"


class Case:
    """One model in one stack."""

    def __init__(self, serving: Serving, model: str) -> None:
        self._serving = serving
        self._model = model
        self._body = infer_body()
        # Where the key is a header, every request has a head of its own; else the front remembers them as one object.
        own = SOURCES.get(model, "").startswith("header:")
        self._heads = [list(HEADERS) if own else HEADERS for _ in range(CONCURRENT)]

    async def block_us(self) -> float:
        """CPU microseconds a request, from body to reply body, the loop's own turns inside."""
        find, stack, clock = self._serving.table.find, self._serving.stack, time.monotonic
        body, model = self._body, self._model
        began_s = time.process_time()
        for _ in range(BLOCK_REQUESTS // CONCURRENT):
            replies: list[bytes] = []
            for headers in self._heads:
                servable = find(model, "")
                request, encoding = decode_infer(body, None, servable, "", clock(), headers)
                BenchCall(request, encoding, replies).start(stack(request))
            while len(replies) < CONCURRENT:  # noqa: ASYNC110  the turns of the loop are what is timed
                await asyncio.sleep(0)
        return (time.process_time() - began_s) / BLOCK_REQUESTS * 1e6


def put_in_force(plans: RolloutPlans, model: str, source: str) -> None:
    """Half of the keys to each of two equal versions; all calls here have one key, so batches stay whole."""
    author, now_s = Author("bench", "approver"), time.time()
    draft = submit(
        Proposal(
            model=model,
            champion="1",
            candidate="2",
            sticky=Sticky(source=source, salt=f"{model}-salt"),
            steps=(Step(percent=50.0),),
        ),
        now_s,
        author,
        "bench",
    )
    assert not isinstance(draft, Refused), draft.sentence
    change = Change(Event.START, draft.revision)
    plan = apply(draft, change, now_s, author, "bench", frozenset({"1", "2"}))
    assert not isinstance(plan, Refused), plan.sentence
    adopted = plans.adopt(Stored(plan, b""))
    assert adopted, plans.troubles


def measure(rounds: int, seconds: float) -> list[dict[str, float]]:
    """CPU µs a request by case, for each round: the median of its blocks."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_repository(Path(folder))
        repository = load_repository(
            root,
            intra_op_threads=1,
            clock=time.perf_counter,
            on_progress=lambda _: None,
            versions=dict.fromkeys(SOURCES, (1, 2)),
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

            async def run() -> list[dict[str, float]]:
                loop = asyncio.get_running_loop()

                def serving(*, rollouts: bool) -> Serving:
                    return Serving(
                        repository.loaded,
                        [
                            ModelStatus(e.name, e.version, e.state, e.reason)
                            for e in repository.index()
                        ],
                        GatewaySettings(),
                        loop=loop,
                        clock=time.monotonic,
                        make_worker=lambda name, threads: ThreadWorker(loop, threads, name),
                        thread_clock=time.thread_time,
                        wanted_clocks=wanted_clocks(1.0),
                        shadow_worker=QuietWorker(loop, 1, "shadow") if rollouts else None,
                    )

                return await _measure(
                    serving(rollouts=False), serving(rollouts=True), rounds, seconds
                )

            return runner.run(run())


async def _measure(
    off: Serving, on: Serving, rounds: int, seconds: float
) -> list[dict[str, float]]:
    plans = RolloutPlans(on.table, on.routing, clock=time.monotonic)
    assert on.mirroring is not None
    plans.mirror(on.mirroring)
    for model, source in SOURCES.items():
        put_in_force(plans, model, source)
    cases = {name: Case(off if name == NO_ROLLOUTS else on, name) for name in MICRO}
    assert set(cases) == {NO_ROLLOUTS, NO_PLAN, *SOURCES}
    for case in cases.values():
        await case.block_us()
    found = []
    dice = random.Random(5)
    for _ in range(rounds):
        blocks: dict[str, list[float]] = {name: [] for name in cases}
        give_up_s = time.perf_counter() + seconds
        while time.perf_counter() < give_up_s:
            for name in dice.sample(list(cases), len(cases)):
                blocks[name].append(await cases[name].block_us())
        found.append({name: sorted(us)[len(us) // 2] for name, us in blocks.items()})
    await on.mirroring.close()
    return found


def main() -> None:
    """Measures, prints."""
    parser = argparse.ArgumentParser(description="The stack without sockets; prints JSON.")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of each round")
    given = parser.parse_args()
    found = measure(given.rounds, given.seconds)
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main()
