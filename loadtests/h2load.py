"""Decides how h2load is run against a gRPC front, and what its answer means.

h2load takes HTTP status 200 for success, and a gRPC error is also a 200. So the bytes of the
replies are counted too: an error carries no message, and then the sum does not come out. It must
never report a load whose replies were not all as long as the one a probe saw.
"""

import re
from pathlib import Path

from loadtests.failures import BenchError
from loadtests.load_generators import LoadGenerator
from loadtests.load_result import LoadResult, percentile

_FINISHED = re.compile(r"finished in ([\d.]+)(s|ms|us)")
_COUNTS = re.compile(r"(\d+) (done|succeeded|failed|errored|timeout)")
_STATUS = re.compile(r"^status codes: (\d+) 2xx", re.MULTILINE)
_DATA = re.compile(r"\((\d+)\) data$", re.MULTILINE)
WITHOUT_MESSAGE = "replies without a message"
_UNIT_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def load(
    h2load: LoadGenerator,
    url: str,
    body: Path,
    log: Path,
    connections: int,
    streams: int,
    seconds: float,
    core: int,
    reply_bytes: int,
) -> LoadResult:
    """Keeps `connections` × `streams` calls in flight for `seconds`."""
    log.unlink(missing_ok=True)
    arguments = [f"-c{connections}", f"-m{streams}", "-t1", f"-D{max(1, round(seconds))}"]
    arguments += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    arguments += ["-d", str(body), f"--log-file={log}", url]
    printed = h2load.run(arguments, core, seconds + 30)
    return parse(printed, log.read_text(), reply_bytes, connections * streams)


def parse(printed: str, log: str, reply_bytes: int, in_flight: int) -> LoadResult:
    """Reads the summary and the per-request log."""
    finished, status, data = (p.search(printed) for p in (_FINISHED, _STATUS, _DATA))
    if not (finished and status and data):
        raise BenchError(f"h2load printed no summary:\n{printed}")
    counts = {name: int(count) for count, name in _COUNTS.findall(printed)}
    answered, times = counts["done"], _times(log)
    # Calls that the end cut off may have brought bytes without having been counted.
    short = answered * reply_bytes - int(data[1])
    errors = {name: counts[name] for name in ("failed", "errored", "timeout")}
    errors["answers outside 2xx"] = answered - int(status[1])
    errors[WITHOUT_MESSAGE] = _odd_replies(short, reply_bytes, in_flight)
    return LoadResult(
        answered=answered,
        seconds=float(finished[1]) * _UNIT_S[finished[2]],
        p50_us=percentile(times, 0.50),
        p99_us=percentile(times, 0.99),
        errors=errors,
    )


def _odd_replies(short_bytes: int, reply_bytes: int, in_flight: int) -> int:
    if abs(short_bytes) <= in_flight * reply_bytes:
        return 0
    return max(1, round(abs(short_bytes) / reply_bytes))


def _times(log: str) -> list[float]:
    """Microseconds of each answered call: the third column, where the second is a 2xx."""
    rows = (line.split("\t") for line in log.splitlines())
    return sorted(float(row[2]) for row in rows if len(row) >= 3 and row[1].startswith("2"))
