"""Decides what is kept of each measurement, and how rounds become one figure: by the median.

Plain values that are written to the JSON file as they are. It must never drop a round.
"""

import statistics
from collections.abc import Callable, Iterable

import msgspec

from loadtests.open_loop_client import OpenLoopReport


class ClosedSample(msgspec.Struct, frozen=True):
    """One row in one round."""

    row: str
    round: int
    requests: int
    per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float
    # Share of the more disturbed core that went to others: a busy machine shows here.
    foreign_core: float
    resident_mb: float

    @property
    def summary(self) -> str:
        """One line of progress."""
        return (
            f"{self.per_second:,.0f}/s, p50 {self.p50_us:,.0f} µs, p99 {self.p99_us:,.0f} µs, "
            f"CPU {self.cpu_us:.1f} µs, others on a core {self.foreign_core:.0%}"
        )


class OpenSample(msgspec.Struct, frozen=True):
    """One open-loop row in one round."""

    row: str
    round: int
    capacity_before: float
    capacity_after: float
    offered: float
    client: OpenLoopReport
    # None when the server does not export it.
    late_at_server: float | None
    foreign_core: float
    resident_mb: float

    @property
    def capacity(self) -> float:
        """The mean of both sides: a machine that became busier meanwhile must not decide."""
        return (self.capacity_before + self.capacity_after) / 2

    @property
    def goodput(self) -> float:
        """Answered in time per second, as a share of capacity, judged at the server's write.

        Without the server's count of late answers, the client's judgement has to stand in.
        """
        if self.late_at_server is None:
            return self.client_goodput
        return self._share(self.count("answered") - self.late_at_server)

    @property
    def client_goodput(self) -> float:
        """The same as the client saw it: from the due time to the last byte of the reply."""
        return self._share(self.client.in_time)

    def count(self, outcome: str) -> int:
        """How many requests ended so."""
        return self.client.outcomes.get(outcome, 0)

    @property
    def summary(self) -> str:
        """One line of progress."""
        return (
            f"capacity {self.capacity:,.0f}/s, offered {self.offered:,.0f}/s, in time "
            f"{self.goodput:.0%} of capacity, outcomes {self.client.outcomes}, "
            f"others on a core {self.foreign_core:.0%}"
        )

    def _share(self, answers: float) -> float:
        return answers / self.client.seconds / self.capacity


class Results(msgspec.Struct):
    """All that one bench measured, and all that went wrong."""

    closed: list[ClosedSample] = []
    open_loop: list[OpenSample] = []
    # Attempts that others disturbed more than the one that was kept.
    set_aside: list[ClosedSample | OpenSample] = []
    cold_start_s: list[float] = []
    pipeline_us: dict[str, float] = {}
    heavy_row_ms: dict[int, float] = {}
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}

    def closed_median(self, row: str, figure: Callable[[ClosedSample], float]) -> float | None:
        """The median over the rounds, or nothing when the row failed or did not run."""
        if row in self.failed:
            return None
        return median(figure(sample) for sample in self.closed if sample.row == row)

    def open_samples(self, row: str) -> list[OpenSample]:
        """The rounds of an open-loop row, none when it failed."""
        if row in self.failed:
            return []
        return [sample for sample in self.open_loop if sample.row == row]

    def resident_mb(self, server: str) -> float | None:
        """The largest resident memory that any loaded row of a server ended with."""
        samples: list[ClosedSample | OpenSample] = [*self.closed, *self.open_loop]
        sizes = [sample.resident_mb for sample in samples if sample.row.endswith(f"-{server}")]
        return max(sizes) if sizes else None

    def foreign_shares(self) -> list[float]:
        """For every sample, the share of the more disturbed core that others used."""
        samples: list[ClosedSample | OpenSample] = [*self.closed, *self.open_loop]
        return [sample.foreign_core for sample in samples]


def median(values: Iterable[float]) -> float | None:
    """The middle value, or nothing of nothing."""
    listed = list(values)
    return statistics.median(listed) if listed else None
