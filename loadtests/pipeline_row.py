"""Decides how the in-process pipeline's own bench is called, when there is one.

`loadtests.pipeline_bench` has to offer
`measure(*, rounds: int, seconds: float) -> Mapping[str, float]`: microseconds per request by
layer, where the key `total` is the whole pipeline without sockets. It is run on the server's
core. It must never be imported unless its row was asked for: it pulls in the product.
"""

import importlib
import importlib.util
import os

from loadtests.failures import RowError

MODULE = "loadtests.pipeline_bench"
TOTAL = "total"


def available() -> bool:
    """Whether the module is there."""
    return importlib.util.find_spec(MODULE) is not None


def measure(rounds: int, seconds: float, core: int) -> dict[str, float]:
    """Microseconds per request by layer."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        layers = importlib.import_module(MODULE).measure(rounds=rounds, seconds=seconds)
        figures = {str(name): float(value) for name, value in layers.items()}
    except Exception as problem:
        # Whatever it raises is that row's failure, not the end of the bench.
        raise RowError(f"{type(problem).__name__}: {problem}") from problem
    finally:
        os.sched_setaffinity(0, cores)
    if TOTAL not in figures:
        raise RowError(f"{MODULE}.measure returned no {TOTAL!r}")
    return figures
