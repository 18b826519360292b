"""Decides how the cost of copies is measured: the same arrivals with and without them, and both at saturation.

Between the halves of a round only the plan changes, over the admin port; both have the same versions loaded. It must
never compare loads of different rates or arrivals.
"""

from __future__ import annotations

import time

from loadtests import server_metrics
from loadtests.core_meter import CoreMeter
from loadtests.failures import RowError
from loadtests.feature_lookups_load import half_busy_rate
from loadtests.load_result import percentile
from loadtests.operations_client import Seen
from loadtests.operations_load import Latency, latency_of
from loadtests.operations_models import ROWS
from loadtests.rollouts_load import users
from loadtests.rollouts_stage import SHADOWED, Admin, proposal
from loadtests.rollouts_verdict import SHADOW_PERCENT, SaturationSample, ShadowSample
from loadtests.rollouts_wire import MANY_USERS, http
from loadtests.server_process import ServerProcess
from loadtests.workbench import Workbench

SHARE = 0.5
"""Of the highest rate, where the search for a rate that leaves CPU begins."""
SEARCHES = 4
NEARLY_HALF = 0.55
"""Of a core, that a gateway uses without copies at the rate that is found."""
CAPACITY_S = 2.0
WARM_UP_S = 0.5
"""Of each half's beginning that is left out."""
LEAST_PERCENT = 0.0001
"""The candidate's weight without copies: a plan in force and both versions loaded, as with them."""
_BOTH = (False, True)


def capacity(bench: Workbench, gateway: ServerProcess) -> float:
    """Calls a second that the gateway answers without copies, as fast as it can."""
    admin = Admin.of(gateway)
    try:
        _have(admin, copies=False)
    finally:
        admin.close()
    bench.write_bodies(SHADOWED, ROWS)
    load = http(bench, gateway.address("http"), SHADOWED, MANY_USERS, CAPACITY_S)
    if complaint := load.complaint():
        raise RowError(f"{complaint} among {load.answered} requests")
    return load.per_second


def easy_rate(bench: Workbench, gateway: ServerProcess, highest: float) -> tuple[float, float]:
    """Calls a second that leave half of a core free without copies, and the cores that they were seen to use.

    Half of the highest rate does not: batches are small then, and cost nearly as much. Raises ``RowError`` when no
    search finds one.
    """
    admin = Admin.of(gateway)
    rate, cores = highest * SHARE, 0.0
    try:
        _have(admin, copies=False)
        for search in range(SEARCHES):
            meter = CoreMeter(gateway, bench.server_core, bench.load_core)
            began_s = time.monotonic()
            _calls(bench, gateway, rate, CAPACITY_S, seed=search)
            cores = meter.read().server_s / (time.monotonic() - began_s)
            if cores <= NEARLY_HALF:
                return rate, cores
            rate = half_busy_rate(rate, cores)
    finally:
        admin.close()
    raise RowError(f"at {rate:,.0f} calls/s the gateway still uses {cores:.0%} of a core")


def at_ease(
    bench: Workbench, gateway: ServerProcess, row: str, number: int, seconds: float, rate: float
) -> ShadowSample:
    """One round at a rate that leaves CPU; which half comes first turns with the round."""
    latencies: dict[bool, Latency] = {}
    lags: dict[bool, float] = {}
    used: dict[bool, float] = {}
    failed = 0
    foreign = copies = shed = due = 0.0
    admin = Admin.of(gateway)
    try:
        for with_copies in _BOTH if number % 2 else _BOTH[::-1]:
            _have(admin, copies=with_copies)
            before = counted(gateway)
            meter, began_s = (
                CoreMeter(gateway, bench.server_core, bench.load_core),
                time.monotonic(),
            )
            seen = _calls(bench, gateway, rate, seconds, seed=number)
            use, wall_s = meter.read(), time.monotonic() - began_s
            after = counted(gateway)
            late = [at for at, due_s in enumerate(seen.due_s) if due_s >= seen.due_s[0] + WARM_UP_S]
            latencies[with_copies] = latency_of(seen, late)
            lags[with_copies] = _lag_ms(seen, late)
            used[with_copies] = use.server_s / wall_s
            failed += sum(one != "answered" for one in seen.outcome)
            foreign = max(foreign, use.foreign_share)
            if with_copies:
                copies, shed = after[0] - before[0], after[1] - before[1]
                due = len(seen.due_s) * SHADOW_PERCENT / 100
    finally:
        admin.close()
    return ShadowSample(
        row=row,
        round=number,
        rate=rate,
        p50_ms=(latencies[False].p50, latencies[True].p50),
        p99_ms=(latencies[False].p99, latencies[True].p99),
        client_lag_ms=(lags[False], lags[True]),
        failed=failed,
        copies=copies,
        shed=shed,
        due=due,
        server_cores=(used[False], used[True]),
        foreign_core=foreign,
    )


def saturated(
    bench: Workbench, gateway: ServerProcess, number: int, seconds: float
) -> SaturationSample:
    """One round of closed loops that keep the gateway busy; errors are counted, not hidden."""
    rates: dict[bool, float] = {}
    p99s: dict[bool, float] = {}
    errors = 0
    foreign = copies = shed = 0.0
    bench.write_bodies(SHADOWED, ROWS)
    admin = Admin.of(gateway)
    try:
        for with_copies in _BOTH if number % 2 else _BOTH[::-1]:
            _have(admin, copies=with_copies)
            before = counted(gateway)
            meter = CoreMeter(gateway, bench.server_core, bench.load_core)
            load = http(bench, gateway.address("http"), SHADOWED, MANY_USERS, seconds)
            use = meter.read()
            after = counted(gateway)
            rates[with_copies], p99s[with_copies] = load.per_second, load.p99_us
            errors += sum(load.errors.values())
            foreign = max(foreign, use.foreign_share)
            if with_copies:
                copies, shed = after[0] - before[0], after[1] - before[1]
            if not load.answered:
                raise RowError("no request was answered")
    finally:
        admin.close()
    return SaturationSample(
        round=number,
        per_second=(rates[False], rates[True]),
        p99_us=(p99s[False], p99s[True]),
        errors=errors,
        copies=copies,
        shed=shed,
        foreign_core=foreign,
    )


def counted(gateway: ServerProcess) -> tuple[float, float]:
    """(copies that were asked of shadows and ended, copies that were not made) since the gateway's start."""
    text = server_metrics.scrape(*gateway.address("admin"))
    if not text:
        raise RowError("the gateway tells no metrics")
    return counts_of(text)


def counts_of(exposition: str) -> tuple[float, float]:
    """The same, of what Prometheus would read. A copy that was dropped or refused inside was not asked either."""
    copies = shed = 0.0
    for labels, count in server_metrics.samples_of(
        exposition, "headrace_shadow_copies_total"
    ).items():
        if dict(labels)["outcome"] in _NOT_MADE:
            shed += count
        else:
            copies += count
    shed += sum(server_metrics.samples_of(exposition, "headrace_shadow_shed_total").values())
    return copies, shed


_NOT_MADE = frozenset({"dropped", "refused", "too_large"})


def _have(admin: Admin, *, copies: bool) -> None:
    """The plan with or without copies, in force."""
    percent = SHADOW_PERCENT if copies else 0.0
    revision = admin.put(SHADOWED, proposal("bench", [LEAST_PERCENT], shadow_percent=percent))
    admin.await_force(SHADOWED, revision, 1)


def _calls(
    bench: Workbench, gateway: ServerProcess, rate: float, seconds: float, seed: int
) -> Seen:
    with users(
        bench,
        [gateway],
        model=SHADOWED,
        rows=ROWS,
        count=MANY_USERS,
        rate=rate,
        seconds=WARM_UP_S + seconds,
        seed=seed,
    ) as calling:
        time.sleep(WARM_UP_S + seconds)
        return calling.result()


def _lag_ms(seen: Seen, calls: list[int]) -> float:
    lags = sorted(seen.noticed_s[at] - seen.due_s[at] for at in calls)
    return round(percentile(lags, 0.99) * 1000, 3)
