"""Decides how routing is measured over sockets: closed loops on two equal models of one gateway, one with a plan.

The loads of a round follow each other on the same process, in an order that turns. It must never return figures of a
load in which anything went wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from loadtests import h2load, json_payload, models, probe, protobuf_payload, wrk
from loadtests.core_meter import CoreMeter
from loadtests.failures import RowError
from loadtests.feature_lookups_stage import said_by
from loadtests.grpc_connection import GrpcConnection
from loadtests.load_result import LoadResult
from loadtests.rollouts_stage import PLAIN, ROUTED, USER
from loadtests.rollouts_verdict import VARIANTS, WIRE_GRPC, StackSample, WireSample
from loadtests.rows import turned
from loadtests.server_process import ServerProcess
from loadtests.servers import Protocol
from loadtests.workbench import Workbench

PLAN_PERCENT = 50.0
CONNECTIONS, GRPC_CONNECTIONS, STREAMS = 32, 8, 8
MANY_USERS = 997
ONE_USER = "u0"
WARM_UP_S = 1.0
_INSIDE_TIMEOUT_S = 120.0
_USERS_SCRIPT = Path(__file__).with_name("rollouts_users.lua")


def stack(bench: Workbench, number: int, seconds: float) -> StackSample:
    """One round of the stack without sockets, in a process of its own on the server's core."""
    options: dict[str, object] = {"rounds": 1, "seconds": seconds}
    what = ["-m", "loadtests.rollouts_inside"]
    said = said_by(what, bench.server_core, seconds + _INSIDE_TIMEOUT_S, options)
    [found] = msgspec.json.decode(said, type=list[dict[str, float]])
    return StackSample(number, found)


def measure(
    bench: Workbench, gateway: ServerProcess, row: str, number: int, seconds: float
) -> Iterator[WireSample]:
    """The round's loads; raises ``RowError`` when any request of one failed."""
    protocol: Protocol = "grpc" if row == WIRE_GRPC else "http"
    variants = [one for one in VARIANTS if protocol == "http" or one != "many users"]
    for variant in turned(variants, number):
        model = PLAIN if variant == "plain" else ROUTED
        users = MANY_USERS if variant == "many users" else 1
        probe.check(protocol, gateway.address(protocol), model, bench.answers[models.TINY])
        bench.write_bodies(model)
        _load(bench, gateway, protocol, model, users, WARM_UP_S)
        meter = CoreMeter(gateway, bench.server_core, bench.load_core)
        load = _load(bench, gateway, protocol, model, users, seconds)
        used = meter.read()
        yield WireSample(
            row=row,
            round=number,
            variant=variant,
            per_second=load.per_second,
            p99_us=load.p99_us,
            cpu_us=used.server_s / load.answered * 1e6,
            foreign_core=used.foreign_share,
        )


def _load(
    bench: Workbench,
    gateway: ServerProcess,
    protocol: Protocol,
    model: str,
    users: int,
    seconds: float,
) -> LoadResult:
    """A closed loop; all requests of both models carry the header, so that reading it costs both the same."""
    address = gateway.address(protocol)
    if protocol == "grpc":
        load = _grpc(bench, address, model, seconds)
    else:
        load = http(bench, address, model, users, seconds)
    if complaint := load.complaint():
        raise RowError(f"{complaint} among {load.answered} requests")
    if not load.answered:
        raise RowError("no request was answered")
    return load


def http(
    bench: Workbench, address: tuple[str, int], model: str, users: int, seconds: float
) -> LoadResult:
    """wrk, whose requests take the users' names in turn; errors are in the result."""
    host, port = address
    whole = max(1, round(seconds))
    url = f"http://{host}:{port}{json_payload.infer_path(model)}"
    arguments = ["-t1", f"-c{CONNECTIONS}", f"-d{whole}s", "--latency", "--timeout", "10s"]
    arguments += ["-s", str(_USERS_SCRIPT), url, "--", str(bench.http_body(model)), str(users)]
    return wrk.parse(bench.wrk.run(arguments, bench.load_core, whole + 30))


def _grpc(bench: Workbench, address: tuple[str, int], model: str, seconds: float) -> LoadResult:
    """h2load, whose requests all carry one user's name."""
    host, port = address
    reply = probe.one_call(UserCall(address, protobuf_payload.infer_request(model)))
    if reply.outcome != "answered":
        raise RowError(f"a probe with a user got {reply.detail}")
    log = bench.folder / "h2load.log"
    log.unlink(missing_ok=True)
    arguments = [f"-c{GRPC_CONNECTIONS}", f"-m{STREAMS}", "-t1", f"-D{max(1, round(seconds))}"]
    arguments += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    arguments += ["-H", f"{USER}: {ONE_USER}", "-d", str(bench.grpc_body(model))]
    arguments += [f"--log-file={log}", f"http://{host}:{port}{protobuf_payload.INFER_PATH}"]
    printed = bench.h2load.run(arguments, bench.load_core, seconds + 30)
    in_flight = GRPC_CONNECTIONS * STREAMS
    return h2load.parse(printed, log.read_text(), len(reply.body), in_flight)


class UserCall(GrpcConnection):
    """One call that carries a user's name: its reply is as long as those of the load."""

    def __init__(self, address: tuple[str, int], message: bytes) -> None:
        super().__init__(address, message, None)
        self._headers.append((USER.encode(), ONE_USER.encode()))
