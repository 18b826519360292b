"""First runs of a model, before requests come: one for each batch size that matters, and timed.

Decides which batch sizes are worth a run. It must never refuse a model: a model that dislikes
generated data may well serve real data.
"""

from __future__ import annotations

import msgspec

from backends.errors import InvalidModelInput, ModelRunError
from backends.ports import Clock, RunModel
from backends.sample_inputs import generator, sample_inputs, working_sizes
from backends.signature import Signature


class WarmupTiming(msgspec.Struct, frozen=True):
    """How long one batch of ``rows`` rows takes: the fastest of the runs."""

    rows: int
    seconds: float


class Warmup(msgspec.Struct, frozen=True):
    """What was run, smallest batch first, and why larger batches were not; empty when all ran."""

    timings: tuple[WarmupTiming, ...]
    problem: str


def batch_buckets(max_batch_size: int) -> tuple[int, ...]:
    """1, 2, 4, … and ``max_batch_size`` itself; only 1 for a model that is not batched."""
    buckets = [1]
    while buckets[-1] * 2 <= max_batch_size:
        buckets.append(buckets[-1] * 2)
    if max_batch_size > buckets[-1]:
        buckets.append(max_batch_size)
    return tuple(buckets)


def warm_up(
    run: RunModel, signature: Signature, *, max_batch_size: int, runs: int, clock: Clock
) -> Warmup:
    """Run each bucket ``runs`` times on generated data; stop at the first one that fails."""
    sizes, problem = working_sizes(run, signature)
    if not sizes:
        return Warmup((), f"no warm-up: the model failed on one generated row: {problem}")
    timings: list[WarmupTiming] = []
    for rows in batch_buckets(max_batch_size):
        inputs = sample_inputs(signature, rows, sizes[0], generator())
        fastest_s = float("inf")
        try:
            for _ in range(runs):
                started_s = clock()
                run(inputs)
                fastest_s = min(fastest_s, clock() - started_s)
        except (InvalidModelInput, ModelRunError) as error:
            return Warmup(tuple(timings), f"a batch of {rows} generated rows failed: {error}")
        timings.append(WarmupTiming(rows, fastest_s))
    return Warmup(tuple(timings), "")
