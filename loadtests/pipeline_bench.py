"""The in-process pipeline: JSON body to reply body, without sockets or HTTP.

Runs the gateway's own stack (``gateway.app.Serving``) on the bench model with 32 requests at once and reports
microseconds per request by layer. Whatever is timed here is what the product adds to the parser and to ONNX Runtime,
whose own run is reported beside it. It must never replace a part of the stack by something quicker.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uvloop

from backends.manager import load_repository
from gateway.core.call import Call
from gateway.edge.json_codec import OutputEncoding, decode_infer, encode_prediction
from gateway.messages import ModelStatus, Prediction, PredictRequest
from gateway.pipeline.workers import ThreadWorker
from gateway.serving import Serving
from gateway.settings import GatewaySettings
from loadtests.json_payload import infer_body
from loadtests.models import TINY, write_repository

CONCURRENT = 32
MICROSECONDS = 1e6


class BenchCall(Call[Prediction]):
    """Ends in the reply's body, as a front's call does."""

    __slots__ = ("encoding", "replies", "request")

    def __init__(
        self, request: PredictRequest, encoding: OutputEncoding, replies: list[bytes]
    ) -> None:
        super().__init__()
        self.request = request
        self.encoding = encoding
        self.replies = replies

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        """Encode the answer; a bench has no errors to hide."""
        if error is not None:
            raise error
        assert result is not None
        self.replies.append(encode_prediction(self.request, result, self.encoding)[0])


def measure(*, rounds: int, seconds: float) -> dict[str, float]:
    """Median microseconds per request by layer over ``rounds``; ``total`` is body to body."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_repository(root)
        repository = load_repository(
            root, intra_op_threads=1, clock=time.perf_counter, on_progress=lambda _: None
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

            async def run() -> dict[str, float]:
                loop = asyncio.get_running_loop()
                serving = Serving(
                    repository.loaded,
                    [ModelStatus(e.name, e.version, e.state, e.reason) for e in repository.index()],
                    GatewaySettings(),
                    loop=loop,
                    clock=time.monotonic,
                    make_worker=lambda name, threads: ThreadWorker(loop, threads, name),
                    thread_clock=time.thread_time,
                )
                return await _measure(serving, rounds, seconds)

            return runner.run(run())


async def _measure(serving: Serving, rounds: int, seconds: float) -> dict[str, float]:
    servable = serving.table.find(TINY, "")
    body = infer_body()
    request, encoding = decode_infer(body, None, servable, "", time.monotonic())
    outputs = servable.run(request.inputs)
    prediction = Prediction(servable, outputs)
    batch = [np.concatenate([one] * CONCURRENT) for one in request.inputs]
    layers: dict[str, Callable[[], object]] = {
        "decode": lambda: decode_infer(body, None, servable, "", time.monotonic()),
        "encode": lambda: encode_prediction(request, prediction, encoding),
        "run (batch of 32, per request)": lambda: servable.run(batch),
    }
    samples: dict[str, list[float]] = {name: [] for name in (*layers, "total")}
    for _ in range(rounds):
        for name, work in layers.items():
            share = CONCURRENT if name.startswith("run") else 1
            samples[name].append(_time(work, seconds / 4) / share)
        samples["total"].append(await _whole(serving, body, seconds))
    figures = {name: statistics.median(values) for name, values in samples.items()}
    rest = figures["total"] - sum(figures[name] for name in layers)
    return {**figures, "admit, route, batch, settle (the rest)": rest}


def _time(work: Callable[[], object], seconds: float) -> float:
    """Microseconds a call."""
    for _ in range(200):
        work()
    calls = 0
    started_s = time.perf_counter()
    until_s = started_s + seconds
    while time.perf_counter() < until_s:
        for _ in range(100):
            work()
        calls += 100
    return (time.perf_counter() - started_s) / calls * MICROSECONDS


async def _whole(serving: Serving, body: bytes, seconds: float) -> float:
    """Microseconds a request, 32 at a time, from body to reply body; the loop's own turns are inside."""
    find, stack, clock = serving.table.find, serving.stack, time.monotonic
    requests = 0
    started_s = time.perf_counter()
    while time.perf_counter() - started_s < seconds:
        replies: list[bytes] = []
        for _ in range(CONCURRENT):
            servable = find(TINY, "")
            request, encoding = decode_infer(body, None, servable, "", clock())
            BenchCall(request, encoding, replies).start(stack(request))
        while len(replies) < CONCURRENT:  # noqa: ASYNC110  the turns of the loop are what is timed
            await asyncio.sleep(0)
        requests += CONCURRENT
    return (time.perf_counter() - started_s) / requests * MICROSECONDS
