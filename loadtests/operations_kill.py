"""Decides how the death of a worker is measured: SIGKILL at half load, and who noticed.

Calls that were on the dead worker's connections are lost with it, whatever a server does; any other failed call breaks
the promise. It must never take the victim's connections from what the client believes: the kernel says whose they are.
"""

import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import msgspec
import orjson

from loadtests.core_meter import CoreMeter
from loadtests.failures import RowError
from loadtests.operations_client import Line, Seen
from loadtests.operations_load import (
    SHARE,
    Latency,
    ask,
    capacity,
    client,
    command,
    latency_of,
)
from loadtests.operations_models import TreesRepository
from loadtests.server_metrics import samples_of
from loadtests.server_process import ServerProcess, running
from loadtests.servers import Protocol
from loadtests.workbench import Workbench

WORKERS = 2
SETTLE_S = 0.5
WATCHED_S = 3.0
FRESH_EVERY = 50
"""One call in so many goes over a connection of its own."""
_BACK_WITHIN_S = 20.0
_LOOK_S = 0.05
_ASK_TIMEOUT_S = 10.0
_SOCKET = re.compile(r"socket:\[(\d+)\]")


class KillSample(msgspec.Struct, frozen=True):
    """One round on one front."""

    row: str
    round: int
    capacity: float
    rate: float
    calls: int
    lost_with_worker: int
    """Failed calls on the connections of the victim, which it took with it."""
    lost_after_signal: int
    """Of these, those that were sent between the signal and the end of their connection."""
    beyond: int
    """Failed calls on any other connection, or on none."""
    failures: dict[str, int]
    """Of those beyond."""
    victim_connections: int
    broken_connections: int
    refused_connects: int
    back_s: float
    """Until two workers served again."""
    before: Latency
    after: Latency
    """Of the calls that were due in the first seconds after the signal."""
    foreign_core: float

    @property
    def commonest(self) -> str:
        """What most of the failures beyond were; nothing without any."""
        return max(self.failures, key=lambda what: self.failures[what], default="")

    @property
    def summary(self) -> str:
        """One line of progress."""
        beyond = f"{self.beyond} beyond" + (f" ({self.commonest})" if self.failures else "")
        return (
            f"{self.rate:,.0f} calls/s, {self.lost_with_worker} lost with the worker, {beyond}, "
            f"{WORKERS} workers again after {self.back_s:.2f} s, p99 {self.before.p99:.1f} ms before and "
            f"{self.after.p99:.1f} ms after, others on a core {self.foreign_core:.0%}"
        )


class Losses(msgspec.Struct, frozen=True):
    """Failed calls, sorted by whose fault they are."""

    with_worker: int
    after_signal: int
    beyond: dict[str, int]


def measure(
    bench: Workbench, row: str, protocol: Protocol, round_number: int, seconds: float
) -> KillSample:
    """The figures of one round; raises `BenchError` when there are none."""
    repository = TreesRepository(bench.folder)
    repository.write()
    line = command(bench, repository.root, f"--workers={WORKERS}")
    with running("headrace", line, bench.server_core, bench.logs) as server:
        most = capacity(bench, server, protocol)
        meter = CoreMeter(server, bench.server_core, bench.load_core)
        address, longest_s = server.address(protocol), SETTLE_S + seconds + _BACK_WITHIN_S
        with client(bench, address, protocol, most * SHARE, longest_s, FRESH_EVERY) as calling:
            time.sleep(SETTLE_S + seconds)
            ports, killed_s = _kill_one(server, address[1])
            back_s = _await_workers(server, killed_s)
            time.sleep(max(0.0, killed_s + WATCHED_S - time.monotonic()))
            seen = calling.result()
        used = meter.read()
    losses = losses_of(seen, ports, killed_s)
    from_s, due = seen.due_s[0] + SETTLE_S, seen.due_s
    before = [at for at, when in enumerate(due) if from_s <= when < killed_s]
    after = [at for at, when in enumerate(due) if killed_s <= when < killed_s + WATCHED_S]
    return KillSample(
        row=row,
        round=round_number,
        capacity=most,
        rate=most * SHARE,
        calls=len(seen.due_s),
        lost_with_worker=losses.with_worker,
        lost_after_signal=losses.after_signal,
        beyond=sum(losses.beyond.values()),
        failures=losses.beyond,
        victim_connections=len(ports),
        broken_connections=sum(one.broke_s is not None for one in seen.lines),
        refused_connects=seen.refused_connects,
        back_s=back_s,
        before=latency_of(seen, before),
        after=latency_of(seen, after),
        foreign_core=used.foreign_share,
    )


def losses_of(seen: Seen, ports: set[int], killed_s: float) -> Losses:
    """Whose fault each failed call is.

    `ports` are the client's ends of the victim's connections, read just before the signal. A connection for a single
    call may have come after that look: opened before the signal and broken after it, it was the victim's as well.
    """
    with_worker = after_signal = 0
    beyond: Counter[str] = Counter()
    for at, outcome in enumerate(seen.outcome):
        if outcome == "answered":
            continue
        line = seen.lines[seen.line[at]] if seen.line[at] >= 0 else None
        if line is not None and _was_of_victim(line, ports, killed_s):
            with_worker += 1
            after_signal += seen.sent_s[at] > killed_s
        else:
            beyond[f"{outcome}: {seen.detail[at]}"] += 1
    return Losses(with_worker, after_signal, dict(beyond.most_common(5)))


def _was_of_victim(line: Line, ports: set[int], killed_s: float) -> bool:
    if line.broke_s is None or not line.opened_s < killed_s <= line.broke_s:
        return False
    return line.port in ports or not line.lasts


def _kill_one(server: ServerProcess, port: int) -> tuple[set[int], float]:
    """Ends the first worker without a warning: the client's ports that were on it, and when."""
    status, body = ask(server.address("admin"), "GET", "/status", _ASK_TIMEOUT_S)
    if status != 200:
        raise RowError(f"/status answered {status}")
    serving = [one["pid"] for one in orjson.loads(body)["workers"] if one["serving"]]
    if len(serving) != WORKERS:
        raise RowError(f"{len(serving)} workers serve, not {WORKERS}")
    ports = peer_ports(serving[0], port)
    killed_s = time.monotonic()
    os.kill(serving[0], signal.SIGKILL)
    return ports, killed_s


def peer_ports(pid: int, port: int) -> set[int]:
    """The other ends of a process's IPv4 connections that came in on `port`."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.update(_SOCKET.findall(os.readlink(entry)))
        except OSError:
            continue
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        local, remote, inode = words[1], words[2], words[9]
        if inode in sockets and int(local.rpartition(":")[2], 16) == port:
            found.add(int(remote.rpartition(":")[2], 16))
    return found - {0}


def _await_workers(server: ServerProcess, killed_s: float) -> float:
    """Seconds from the signal until the metrics say that all workers serve, one of them anew."""
    while (waited_s := time.monotonic() - killed_s) < _BACK_WITHIN_S:
        server.check_alive()
        status, text = ask(server.address("admin"), "GET", "/metrics", _ASK_TIMEOUT_S)
        restarts = sum(samples_of(text, "headrace_worker_restarts_total").values())
        workers = sum(samples_of(text, "headrace_workers").values())
        if status == 200 and restarts and workers == WORKERS:
            return time.monotonic() - killed_s
        time.sleep(_LOOK_S)
    raise RowError(f"no {WORKERS} workers {waited_s:.0f} s after one was killed")
