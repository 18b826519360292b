"""Decides what the rollouts bench keeps of each measurement, and which promises that keeps. Pure.

What is compared was measured within one round, seconds apart; the figure is the median over the rounds, with a 95 %
interval of that median (bootstrap, with a seed). Counts of failures are sums. A figure that is missing is
`not measured`, never a pass; an interval that holds the limit is told beside the verdict.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

from loadtests.load_result import percentile
from loadtests.verdict import Status, Verdict

ADDED_US = 3.0
IN_FORCE_S = 1.0
SHADOW_P99 = 1.05
SATURATED = 0.95
"""Of the throughput without copies, that has to be left at saturation."""
SHED_FIRST = 0.5
"""Of the copies that are due at saturation, at least this share is not made."""
SHADOW_PERCENT = 10.0
FEW_ROUNDS = 10
"""Below so many, an interval says little, and the page says so."""
_RESAMPLES = 2000

NO_ROLLOUTS, NO_PLAN = "no-rollouts", "no-plan"
MICRO = (NO_ROLLOUTS, NO_PLAN, "request_id", "header", "parameter", "input")
"""Cases of the stack without sockets; the last four are what a plan's key is taken from."""
STACK, WIRE_HTTP, WIRE_GRPC = "stack", "wire-http", "wire-grpc"
WORKERS, INSTANCES = "change-workers", "change-instances"
SHADOW_ONE, SHADOW_TWO, SATURATION = "shadow-one-core", "shadow-two-cores", "shadow-saturation"
WIRES = (WIRE_HTTP, WIRE_GRPC)
CHANGES = (WORKERS, INSTANCES)
SHADOWS = (SHADOW_ONE, SHADOW_TWO)
NAMES = (STACK, *WIRES, *CHANGES, *SHADOWS, SATURATION)

Variant = Literal["plain", "one user", "many users"]
VARIANTS: tuple[Variant, ...] = ("plain", "one user", "many users")
"""The model without a plan; the one with a plan, asked by one user, so that batches are as large; and by many, so that
each arm's batches are half as large. gRPC's generator cannot tell users apart: it leaves the last out."""


class StackSample(msgspec.Struct, frozen=True):
    """CPU µs a request by case, in one round."""

    round: int
    cpu_us: dict[str, float]


class WireSample(msgspec.Struct, frozen=True):
    """One closed loop over sockets."""

    row: str
    round: int
    variant: Variant
    per_second: float
    p99_us: float
    cpu_us: float
    foreign_core: float


class ChangeSample(msgspec.Struct, frozen=True):
    """All changes of one row."""

    row: str
    rate: float
    beats_s: list[float]
    """For each change: from its HTTP answer until the last worker's heartbeat told of it."""
    answers_s: list[float]
    """From there until the last call was sent that the older revision answered; 0 when none was."""
    written_s: list[float]
    """From asking for the change to its answer."""
    moved: int
    """Users that went to the candidate, summed over the changes."""
    calls: int
    failed: int
    """After the first plan was in force …"""
    failed_first: int
    """… and before, while a model without a plan got its first one."""
    failures: dict[str, int]
    """Of both, by what was said."""
    flips: int
    """Users' ways back while weights only grew, after the change was in force everywhere."""
    foreign_core: float


class ShadowSample(msgspec.Struct, frozen=True):
    """One round: the same arrivals, with copies and without."""

    row: str
    round: int
    rate: float
    p50_ms: tuple[float, float]
    """Without, with copies; so for the others."""
    p99_ms: tuple[float, float]
    client_lag_ms: tuple[float, float]
    failed: int
    copies: float
    """That were asked of the shadow …"""
    shed: float
    """… and that were not made."""
    due: float
    server_cores: tuple[float, float]
    foreign_core: float

    @property
    def ratio(self) -> float:
        """The promise is about this one."""
        return self.p99_ms[1] / self.p99_ms[0]


class SaturationSample(msgspec.Struct, frozen=True):
    """One round at saturation."""

    round: int
    per_second: tuple[float, float]
    """Without, with copies."""
    p99_us: tuple[float, float]
    errors: int
    copies: float
    shed: float
    foreign_core: float

    @property
    def ratio(self) -> float:
        """Of the throughput."""
        return self.per_second[1] / self.per_second[0]

    @property
    def shed_share(self) -> float:
        """Of the copies that were due; 0 where none was."""
        due = self.shed + self.copies
        return self.shed / due if due else 0.0


class Results(msgspec.Struct):
    """All that one bench measured, and all that went wrong."""

    stack: list[StackSample] = []
    wire: list[WireSample] = []
    changes: list[ChangeSample] = []
    shadows: list[ShadowSample] = []
    saturation: list[SaturationSample] = []
    failed: dict[str, str] = {}

    def shares(self) -> list[float]:
        """For every sample that knows it, the share of a core that others used."""
        samples: list[WireSample | ChangeSample | ShadowSample | SaturationSample]
        samples = [*self.wire, *self.changes, *self.shadows, *self.saturation]
        return [one.foreign_core for one in samples]


class Figure(msgspec.Struct, frozen=True):
    """A median of rounds, and between what it lies with 95 %."""

    median: float
    low: float
    high: float
    rounds: int

    def told(self, digits: int, unit: str) -> str:
        """For people."""
        few = f", only {self.rounds} rounds" if self.rounds < FEW_ROUNDS else ""
        return (
            f"{self.median:.{digits}f} {unit} (95 %: {self.low:.{digits}f} to {self.high:.{digits}f}"
            f"{few})"
        )


def figure_of(values: Sequence[float]) -> Figure | None:
    """Median and bootstrap interval; None without values. The same values make the same interval."""
    if not values:
        return None
    dice = random.Random(17)
    medians = sorted(
        statistics.median(dice.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    return Figure(
        statistics.median(values),
        percentile(medians, 0.025),
        percentile(medians, 0.975),
        len(values),
    )


def stack_added_us(samples: Sequence[StackSample], case: str) -> Figure | None:
    """What a case adds to the stack without rollouts."""
    return figure_of([one.cpu_us[case] - one.cpu_us[NO_ROLLOUTS] for one in samples])


def wire_added_us(samples: Sequence[WireSample], row: str, variant: Variant) -> Figure | None:
    """What a variant adds to the model without a plan, round by round."""
    mine = {one.round: one.cpu_us for one in samples if (one.row, one.variant) == (row, variant)}
    plain = {one.round: one.cpu_us for one in samples if (one.row, one.variant) == (row, "plain")}
    return figure_of([mine[number] - plain[number] for number in sorted(mine.keys() & plain)])


def judge(results: Results, names: Sequence[str]) -> list[Verdict]:
    """The promises of these rows, in a fixed order."""
    verdicts: list[Verdict] = []
    if STACK in names:
        stack = results.stack if STACK not in results.failed else []
        for case in MICRO[1:]:
            added = stack_added_us(stack, case)
            title = f"{STACK}: CPU that {_case(case)} adds to a request"
            verdicts.append(_at_most(title, ADDED_US, added, 2, "µs", STACK, results))
    for row in WIRES:
        if row in names:
            wire = results.wire if row not in results.failed else []
            added = wire_added_us(wire, row, "one user")
            title = f"{row}: CPU that a plan in force adds to a request"
            verdicts.append(_at_most(title, ADDED_US, added, 1, "µs", row, results))
    for row in CHANGES:
        if row in names:
            verdicts += _changes(row, results)
    for row in SHADOWS:
        if row in names:
            verdicts += _shadows(row, results)
    if SATURATION in names:
        verdicts += _saturation(results)
    return verdicts


def _case(case: str) -> str:
    return "having rollouts on, without a plan," if case == NO_PLAN else f"a plan with key {case}"


def _changes(row: str, results: Results) -> list[Verdict]:
    found = [] if row in results.failed else [one for one in results.changes if one.row == row]
    title = f"{row}: change answered → in force on all 4 workers, p99"
    if not found:
        return [Verdict(title, f"at most {IN_FORCE_S:g} s", _why(row, results), "not measured")]
    beats = sorted(seconds for one in found for seconds in one.beats_s)
    answers = sorted(seconds for one in found for seconds in one.answers_s)
    p99 = percentile(beats, 0.99)
    text = (
        f"{p99:.3f} s (p50 {percentile(beats, 0.5):.3f} s, most {beats[-1]:.3f} s of {len(beats)}; by the answers "
        f"themselves p99 {percentile(answers, 0.99):.3f} s, most {answers[-1]:.3f} s)"
    )
    calls, failed = sum(one.calls for one in found), sum(one.failed for one in found)
    first = sum(one.failed_first for one in found)
    moved, flips = sum(one.moved for one in found), sum(one.flips for one in found)
    kinds = "; ".join(f"{n} × {what}" for one in found for what, n in one.failures.items())
    return [
        Verdict(title, f"at most {IN_FORCE_S:g} s", text, _kept(p99 <= IN_FORCE_S)),
        Verdict(
            f"{row}: failed calls",
            "0",
            f"{failed} of {calls:,}{f' ({kinds})' if failed and kinds else ''}",
            _kept(failed == 0) if calls else "not measured",
        ),
        Verdict(
            f"{row}: failed calls while the model got its first plan",
            "0",
            f"{first}{f' ({kinds})' if first and kinds else ''}",
            _kept(first == 0) if calls else "not measured",
        ),
        Verdict(
            f"{row}: users that went back while weights grew",
            "0",
            f"{flips}, while {moved:,} moved",
            _kept(flips == 0) if moved else "not measured",
        ),
    ]


def _shadows(row: str, results: Results) -> list[Verdict]:
    found = [] if row in results.failed else [one for one in results.shadows if one.row == row]
    ratio = figure_of([one.ratio for one in found])
    title = f"{row}: p99 with {SHADOW_PERCENT:g} % copies ÷ without"
    made = sum(one.copies for one in found)
    verdict = _at_most(title, SHADOW_P99, ratio, 3, "×", row, results)
    if found and not made:  # what was not copied costs nothing, and shows nothing
        verdict = Verdict(title, verdict.limit, "no copy was made", "not measured")
    failed = sum(one.failed for one in found)
    return [
        verdict,
        Verdict(
            f"{row}: failed calls",
            "0",
            str(failed) if found else _why(row, results),
            _kept(failed == 0) if found else "not measured",
        ),
    ]


def _saturation(results: Results) -> list[Verdict]:
    found = [] if SATURATION in results.failed else results.saturation
    throughput = figure_of([one.ratio for one in found])
    shed = figure_of([one.shed_share for one in found])
    errors = sum(one.errors for one in found)
    why = _why(SATURATION, results)
    return [
        Verdict(
            f"{SATURATION}: throughput with {SHADOW_PERCENT:g} % copies ÷ without",
            f"at least {SATURATED:g} ×",
            why if throughput is None else throughput.told(3, "×"),
            "not measured" if throughput is None else _kept(throughput.median >= SATURATED),
        ),
        Verdict(
            f"{SATURATION}: copies that were shed, of those due",
            f"at least {SHED_FIRST:g}",
            why if shed is None else shed.told(3, "of them"),
            "not measured" if shed is None else _kept(shed.median >= SHED_FIRST),
        ),
        Verdict(
            f"{SATURATION}: failed calls",
            "0",
            str(errors) if found else why,
            _kept(errors == 0) if found else "not measured",
        ),
    ]


def _at_most(
    promise: str,
    limit: float,
    figure: Figure | None,
    digits: int,
    unit: str,
    row: str,
    results: Results,
) -> Verdict:
    told = f"at most {limit:g} {unit}"
    if figure is None:
        return Verdict(promise, told, _why(row, results), "not measured")
    unsure = "; the interval holds the limit" if figure.low <= limit < figure.high else ""
    return Verdict(
        promise, told, f"{figure.told(digits, unit)}{unsure}", _kept(figure.median <= limit)
    )


def _kept(is_kept: bool) -> Status:
    return "pass" if is_kept else "short"


def _why(row: str, results: Results) -> str:
    failure = results.failed.get(row)
    return "no figure" if failure is None else f"failed: {failure.splitlines()[0]}"
