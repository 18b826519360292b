"""Decides how the steady part of a soak is made: h2load at a fixed rate on both fronts, leg after leg.

The rate is a share of what the server answered in a short closed loop just before. It must never make up for a slow
leg, and a leg with a wrong answer is a failure of the soak.
"""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from loadtests import h2load, json_payload, models, probe, protobuf_payload
from loadtests.failures import BenchError
from loadtests.load_generators import LoadGenerator
from loadtests.server_process import ServerProcess
from loadtests.servers import Protocol
from loadtests.workbench import Workbench

CONNECTIONS: dict[Protocol, int] = {"http": 32, "grpc": 8}
STREAMS: dict[Protocol, int] = {"http": 1, "grpc": 8}
LEG_S = 30.0
_LEAST_LEG_S = 1.0


@dataclass(frozen=True, slots=True)
class Front:
    """What h2load needs to drive one front."""

    protocol: Protocol
    url: str
    arguments: tuple[str, ...]
    reply_bytes: int

    @property
    def in_flight(self) -> int:
        """The most calls at once."""
        return CONNECTIONS[self.protocol] * STREAMS[self.protocol]


def front(bench: Workbench, server: ServerProcess, protocol: Protocol) -> Front:
    """The tiny model on one front; a probe learns how long its answers are."""
    host, port = server.address(protocol)
    reply = probe.check(protocol, (host, port), models.TINY, bench.answers[models.TINY])
    kind: tuple[str, ...]
    if protocol == "http":
        path, body = json_payload.infer_path(models.TINY), bench.http_body(models.TINY)
        kind = ("--h1", "-H", "content-type: application/json")
    else:
        path, body = protobuf_payload.INFER_PATH, bench.grpc_body(models.TINY)
        kind = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    arguments = (
        f"-c{CONNECTIONS[protocol]}",
        f"-m{STREAMS[protocol]}",
        "-t1",
        "-d",
        str(body),
        *kind,
    )
    return Front(protocol, f"http://{host}:{port}{path}", arguments, len(reply.body))


def drive(
    generator: LoadGenerator, on: Front, core: int, seconds: float, per_s: float | None
) -> tuple[int, float]:
    """One leg; (answered, answers per second). Raises `BenchError` when an answer was wrong."""
    arguments = [*on.arguments, f"-D{max(1, math.floor(seconds))}"]
    if per_s is not None:
        arguments.append(f"--rps={max(1, round(per_s / CONNECTIONS[on.protocol]))}")
    printed = generator.run([*arguments, on.url], core, seconds + 60)
    result = h2load.parse(printed, "", on.reply_bytes, on.in_flight)
    if on.protocol == "http":
        # The status says it all here, and the last digit of a JSON number may differ between batches.
        del result.errors[h2load.WITHOUT_MESSAGE]
    if result.complaint():
        raise BenchError(f"{on.protocol} load: {result.complaint()} among {result.answered}")
    if not result.answered:
        raise BenchError(f"{on.protocol} load: no answer")
    return result.answered, result.per_second


@dataclass(slots=True)
class SteadyLoad:
    """One thread for each front, which runs one leg after the other until the end."""

    generator: LoadGenerator
    core: int
    per_s: dict[Protocol, float]
    answered: dict[Protocol, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _pool: ThreadPoolExecutor = field(default_factory=ThreadPoolExecutor)
    _running: dict[Protocol, Future[None]] = field(default_factory=dict)

    def start(self, fronts: list[Front], until_s: float) -> None:
        """Begin; ``until_s`` is on ``time.monotonic``."""
        for one in fronts:
            self.answered[one.protocol] = 0
            self._running[one.protocol] = self._pool.submit(self._run, one, until_s)

    def join(self) -> None:
        """Wait for the last legs; a load that ended before is a failure."""
        for protocol, running in self._running.items():
            problem = running.exception()
            if problem is not None:
                self.failures.append(f"{protocol} load ended: {problem!r}"[:300])
        self._pool.shutdown()

    def _run(self, on: Front, until_s: float) -> None:
        while (left_s := until_s - time.monotonic()) > _LEAST_LEG_S:
            # A last leg of a moment would not be worth a connection.
            leg_s = left_s if left_s < 2 * LEG_S else LEG_S
            try:
                answered, _ = drive(self.generator, on, self.core, leg_s, self.per_s[on.protocol])
            except (BenchError, OSError) as problem:
                words = str(problem) if isinstance(problem, BenchError) else repr(problem)
                self.failures.append(words[:300])
                if len(self.failures) > 10:
                    return
            else:
                self.answered[on.protocol] += answered
