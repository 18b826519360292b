"""Decides how a swap under load is measured: calls at half load, before and while versions are loaded.

Only calls that are due while a load is asked for, or in the moment after it, when the old version goes, count as
"during". It must never hide a failed call, whenever it happened.
"""

import statistics
import time
from collections import Counter

import msgspec

from loadtests.core_meter import CoreMeter
from loadtests.failures import RowError
from loadtests.load_result import percentile
from loadtests.operations_client import Seen
from loadtests.operations_load import (
    SHARE,
    Latency,
    ask,
    capacity,
    client,
    command,
    latency_of,
)
from loadtests.operations_models import TREES, TreesRepository
from loadtests.server_process import running
from loadtests.servers import Protocol
from loadtests.workbench import Workbench

SETTLE_S = 0.5
"""Of the load's beginning that is left out."""
AFTER_S = 0.05
"""After a load was answered, while the old version's last calls leave."""
PAUSE_S = 0.1
LOAD_TIMEOUT_S = 30.0
MOST_LOADS = 500


class SwapSample(msgspec.Struct, frozen=True):
    """One round on one front."""

    row: str
    round: int
    capacity: float
    rate: float
    before: Latency
    during: Latency
    client_lag_ms: tuple[float, float]
    """The 99th percentile of how late the client itself was: before, during."""
    loads: int
    load_s: float
    """Median time until a load was answered."""
    failed: int
    failures: dict[str, int]
    server_share: float
    """Of its core, before the first load."""
    foreign_core: float

    @property
    def ratio(self) -> float:
        """The promise is about this one."""
        return self.during.p99 / self.before.p99

    @property
    def summary(self) -> str:
        """One line of progress."""
        return (
            f"{self.rate:,.0f} calls/s, p99 {self.before.p99:.2f} ms before and {self.during.p99:.2f} ms during "
            f"({self.ratio:.2f} ×), {self.loads} loads of {self.load_s:.2f} s beside a server that used "
            f"{self.server_share:.0%} of its core, {self.failed} failed, others on a core {self.foreign_core:.0%}"
        )


def measure(
    bench: Workbench, row: str, protocol: Protocol, round_number: int, seconds: float
) -> SwapSample:
    """The figures of one round; raises `BenchError` when there are none."""
    repository = TreesRepository(bench.folder)
    repository.write(loads=round_number)
    line = command(bench, repository.root, "--control", "explicit")
    line = ["env", "HEADRACE_REPOSITORY_STARTUP_MODELS=*", *line]
    with running("headrace", line, bench.server_core, bench.logs) as server:
        most = capacity(bench, server, protocol)
        meter = CoreMeter(server, bench.server_core, bench.load_core)
        longest_s = SETTLE_S + 2 * seconds + 2 * LOAD_TIMEOUT_S
        with client(bench, server.address(protocol), protocol, most * SHARE, longest_s) as calling:
            time.sleep(SETTLE_S)
            cpu_s, began_s = server.cpu_seconds(), time.monotonic()
            time.sleep(seconds)
            busy = (server.cpu_seconds() - cpu_s) / (time.monotonic() - began_s)
            windows = _swap(repository, server.address("http"), time.monotonic() + seconds)
            time.sleep(2 * AFTER_S)
            seen = calling.result()
        used = meter.read()
    before, during = phases(seen, windows)
    failures = Counter(
        f"{outcome}: {detail}"
        for outcome, detail in zip(seen.outcome, seen.detail, strict=True)
        if outcome != "answered"
    )
    return SwapSample(
        row=row,
        round=round_number,
        capacity=most,
        rate=most * SHARE,
        before=latency_of(seen, before),
        during=latency_of(seen, during),
        client_lag_ms=(_lag_ms(seen, before), _lag_ms(seen, during)),
        loads=len(windows),
        load_s=statistics.median(end - begin for begin, end in windows),
        failed=sum(failures.values()),
        failures=dict(failures.most_common(5)),
        server_share=busy,
        foreign_core=used.foreign_share,
    )


def phases(seen: Seen, windows: list[tuple[float, float]]) -> tuple[list[int], list[int]]:
    """The calls that were due before the first load, and those that were due while one ran.

    `windows` are the loads in their order: (asked, answered).
    """
    from_s = seen.due_s[0] + SETTLE_S
    before = [at for at, due in enumerate(seen.due_s) if from_s <= due < windows[0][0]]
    during, at = [], 0
    for begin, end in windows:
        while at < len(seen.due_s) and seen.due_s[at] < begin:
            at += 1
        while at < len(seen.due_s) and seen.due_s[at] < end + AFTER_S:
            during.append(at)
            at += 1
    return before, during


def _swap(
    repository: TreesRepository, address: tuple[str, int], until_s: float
) -> list[tuple[float, float]]:
    """Loads one version after the other, one at least; when each was asked for and answered."""
    windows: list[tuple[float, float]] = []
    while not windows or (time.monotonic() < until_s and len(windows) < MOST_LOADS):
        repository.next_version()
        time.sleep(PAUSE_S)
        began_s = time.monotonic()
        status, body = ask(address, "POST", f"/v2/repository/models/{TREES}/load", LOAD_TIMEOUT_S)
        windows.append((began_s, time.monotonic()))
        if status != 200:
            raise RowError(f"a load was answered {status}: {body[:300]}")
    return windows


def _lag_ms(seen: Seen, calls: list[int]) -> float:
    lags = sorted(seen.noticed_s[at] - seen.due_s[at] for at in calls)
    return round(percentile(lags, 0.99) * 1000, 3)
