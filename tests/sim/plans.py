"""A day of the simulator as plain values: which models, which traffic, what goes wrong.

Everything that happens on a day follows from these values and the seed in them. They decide nothing; ``days.py`` draws
them, ``simulation.py`` plays them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tests.sim.feature_plans import StorePlan


class Window(msgspec.Struct, frozen=True):
    """A stretch of the day, in seconds from its start."""

    from_s: float
    to_s: float

    def covers(self, day_s: float) -> bool:
        return self.from_s <= day_s < self.to_s


class ModelPlan(msgspec.Struct, frozen=True):
    """One version of one model: its settings, and the truth about it that the gateway must find out."""

    name: str = "m"
    version: str = "1"
    batched: bool = True
    max_batch_size: int = 8
    max_queue_requests: int = 1024
    max_queue_rows: int = 65536
    max_queue_delay_us: int = 0
    instances: int = 1
    priority_levels: int = 3
    inline: Literal["auto", "always", "never"] = "auto"
    inline_limit_us: int = 200
    widths: tuple[int, ...] = (3,)
    """Sizes of the second dimension that callers send; more than one makes buckets."""
    per_batch_s: float = 1e-3
    per_row_s: float = 1e-4
    jitter: float = 0.0
    """A run takes up to this share longer."""
    stall_chance: float = 0.0
    stall_s: float = 0.0
    slow: Window = Window(0.0, 0.0)
    slow_factor: float = 1.0
    outages: tuple[Window, ...] = ()
    """Every run that starts in one of these fails."""
    misshapen_chance: float = 0.0
    """Runs of several callers that lose a row of the answer."""
    ragged: bool = False
    """Later pieces of a request that was cut are answered in another shape than the first one."""
    warmed_up: bool = True
    load_s: float = 0.0
    """What loading and warming it takes, on a thread."""
    loads: bool = True
    features: str = ""
    """The feature service that completes its inputs; empty: callers send all of them."""

    @property
    def limit_rows(self) -> int:
        """Most rows in one batch, as the lane counts them."""
        return self.max_batch_size if self.batched else 1

    @property
    def capacity_rows_per_s(self) -> float:
        """Rows a second when every batch is full."""
        rows = self.limit_rows
        return self.instances * rows / (self.per_batch_s + self.per_row_s * rows)


class Span(msgspec.Struct, frozen=True):
    """A range to draw a duration from; ``None`` where a plan says "never"."""

    low_s: float
    high_s: float


class TrafficPlan(msgspec.Struct, frozen=True):
    """A crowd of callers that behave alike."""

    model: str = "m"
    versions: tuple[str, ...] = ("",)
    """The versions that callers ask for; empty: whichever is served."""
    target: int = 0
    """Index of the model whose inputs they send."""
    calls: int = 100
    starts_s: float = 0.0
    # Open loop: bursts arrive whatever the gateway does.
    rate_per_s: float = 0.0
    """Calls a second; 0: a closed loop of ``clients`` instead."""
    burst: int = 1
    """Largest number of calls that arrive at one moment."""
    # Closed loop: each client waits for its answer before it asks again.
    clients: int = 0
    think: Span = Span(0.0, 0.0)
    asks_again_at_once: float = 0.0
    """Chance that a client sends its next call while the answer to the last is being handed to it."""
    rows: tuple[int, ...] = (1,)
    deadlines: tuple[Span | None, ...] = (None,)
    passed_chance: float = 0.0
    """Calls whose deadline lies in the past when they arrive."""
    priorities: tuple[int, ...] = (1,)
    cancel_chance: float = 0.0
    cancel_after: Span = Span(0.0, 0.0)
    poison_chance: float = 0.0
    """Calls with a row on which the model fails."""
    invalid_chance: float = 0.0
    """Calls with a row that the runtime refuses."""
    broken_chance: float = 0.0
    """Calls whose client fails while it takes the answer."""
    upload_chance: float = 0.0
    """Calls whose body arrives piece by piece, its bytes reserved until it is complete."""
    upload: Span = Span(0.0, 0.0)
    connections: int = 1_000_000
    hangup_chance: float = 0.0
    """Answers upon which the caller drops its connection and all its other calls."""


class Storm(msgspec.Struct, frozen=True):
    """Many callers go away at one moment."""

    at_s: float
    share: float


class Operation(msgspec.Struct, frozen=True):
    """What an operator does at one moment: some files come and go, then a control call."""

    at_s: float
    call: Literal["load", "unload"]
    model: str
    arriving: tuple[ModelPlan, ...] = ()
    """Versions whose files are there from now on; they take the place of what had their number."""
    leaving: tuple[str, ...] = ()
    """Versions whose files are deleted."""


class Death(msgspec.Struct, frozen=True):
    """A worker dies at one moment, with everything in it; nothing happens when its seat is empty."""

    at_s: float
    seat: int


class Day(msgspec.Struct, frozen=True):
    """All of it."""

    seed: int
    size: float
    """As it was drawn; 0.0 for a day that was written by hand."""
    models: tuple[ModelPlan, ...]
    traffic: tuple[TrafficPlan, ...]
    store: StorePlan | None = None
    """Where features come from."""
    featured: tuple[str, ...] = ()
    """Models whose callers send entities; not every version of them needs to ask for features."""
    storms: tuple[Storm, ...] = ()
    workers: int = 0
    """Behind a supervisor; 0: one process alone."""
    operations: tuple[Operation, ...] = ()
    deaths: tuple[Death, ...] = ()
    scrapes: tuple[float, ...] = ()
    """When somebody reads the metrics, in seconds from the start."""
    kept_versions: int = 1
    """How many of a model's versions are wanted, the newest first."""
    closes_s: float | None = None
    """When the gateway starts to drain; None: it never does."""
    max_requests: int = 8192
    max_bytes: int = 512 * 1024 * 1024
    starts_s: float = 50_000.0
    callback_cost_s: float = 2e-6
    timer_resolution_s: float = 0.0
    clock_read_s: float = 0.0
    write_cost_s: float = 0.0
    """What encoding and writing one answer costs."""
    has_thread_clock: bool = False
    """Whether the gateway can tell what a run cost from how long it took."""
    hand_over_s: float = 0.0
    """From the end of a run on a thread to its report on the loop."""
