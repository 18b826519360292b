"""Decides how wrk is run against an HTTP front, and what its answer means.

The totals come from the `done` callback of `wrk_infer.lua`. It must never count an answer
outside 2xx/3xx as one.
"""

from pathlib import Path

import orjson

from loadtests.failures import BenchError
from loadtests.load_generators import LoadGenerator
from loadtests.load_result import LoadResult

_SCRIPT = Path(__file__).with_name("wrk_infer.lua")
_MARK = "TOTALS "


def load(
    wrk: LoadGenerator, url: str, body: Path, connections: int, seconds: float, core: int
) -> LoadResult:
    """Keeps `connections` busy with the same POST for `seconds` (whole ones, at least 1)."""
    whole = max(1, round(seconds))
    arguments = ["-t1", f"-c{connections}", f"-d{whole}s", "--latency", "--timeout", "10s"]
    arguments += ["-s", str(_SCRIPT), url, "--", str(body)]
    return parse(wrk.run(arguments, core, whole + 30))


def parse(printed: str) -> LoadResult:
    """Reads the totals line."""
    for line in printed.splitlines():
        if line.startswith(_MARK):
            totals = orjson.loads(line.removeprefix(_MARK))
            kinds = ("connect", "read", "write", "timeout")
            errors = {f"{kind} errors": totals[kind] for kind in kinds}
            errors["answers outside 2xx"] = totals["status"]
            seconds = totals["duration_us"] / 1e6
            return LoadResult(
                totals["requests"], seconds, totals["p50_us"], totals["p99_us"], errors
            )
    raise BenchError(f"wrk printed no totals:\n{printed}")
