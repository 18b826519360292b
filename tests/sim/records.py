"""What the simulator knows of each call, and the history that it tells when something went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from backends.signature import Tensor
from gateway.errors import ErrorCode
from tests.sim.feature_plans import ServicePlanned

Entry = tuple[float, str, tuple[object, ...]]


class CallRecord:
    """One call, from its birth to its end."""

    __slots__ = (
        "cancelled_after_outcome",
        "cancelling",
        "deadline_s",
        "ended",
        "enqueued_s",
        "enqueued_turn",
        "entities",
        "failures",
        "inputs",
        "inside",
        "lane_name",
        "looking",
        "number",
        "order",
        "outcome",
        "priority",
        "reached_lane",
        "rows",
        "service",
        "size_bytes",
        "taken_rows",
        "waited_for_rows",
        "waiting",
        "wants_status",
        "width",
    )

    def __init__(
        self,
        number: int,
        inputs: Sequence[Tensor],
        *,
        rows: int,
        width: int,
        priority: int,
        deadline_s: float,
        size_bytes: int,
    ) -> None:
        self.number = number
        self.inputs = inputs
        self.rows = rows
        """As the lane counts them: 1 where requests are never mixed."""
        self.width = width
        self.priority = priority
        self.deadline_s = deadline_s
        self.size_bytes = size_bytes
        self.inside = False
        """Between its start and its end."""
        self.reached_lane = False
        """The lane took it in."""
        self.waiting = False
        """Rows of it are in the queue."""
        self.ended = False
        self.cancelling = False
        self.cancelled_after_outcome = False
        """The caller went while the gateway was handing out the answers of its batch."""
        self.lane_name = ""
        """The lane that took the call in or refused it; empty when it never came so far."""
        self.order = 0
        """Place among all calls that a lane took in."""
        self.enqueued_s = 0.0
        self.enqueued_turn = 0
        self.taken_rows = 0
        self.failures: set[ErrorCode] = set()
        """What a run of this call's own rows, and no others, came to."""
        self.outcome = ""
        self.entities: Sequence[int] = ()
        """Which rows of the store it is about, one for each of its own; empty where no version asks."""
        self.wants_status = False
        self.service: ServicePlanned | None = None
        """By what it is completed."""
        self.looking: object = None
        """Its lookup, in the words of ``feature_book.py``."""
        self.waited_for_rows = False

    @property
    def key(self) -> tuple[int, float, int]:
        return (self.priority, self.deadline_s, self.order)


class History:
    """Everything that happened, cheap to note and readable when asked."""

    def __init__(self, starts_s: float) -> None:
        self._starts_s = starts_s
        self.entries: list[Entry] = []
        self.counts: Counter[str] = Counter()
        self.problem = ""

    def note(self, now_s: float, what: str, *about: object) -> None:
        self.entries.append((now_s, what, about))
        self.counts[what] += 1

    def complain(self, now_s: float, problem: str) -> None:
        """Remember the first thing that was wrong: what follows from it is of no interest."""
        if not self.problem:
            self.problem = problem
            self.note(now_s, "WRONG", problem)

    def lines(self, entries: Sequence[Entry] | None = None) -> list[str]:
        """One event a line, milliseconds from the start of the day."""
        return [
            f"{(now_s - self._starts_s) * 1e3:12.4f} ms  {what:<10} "
            + " ".join(str(one) for one in about)
            for now_s, what, about in (self.entries if entries is None else entries)
        ]
