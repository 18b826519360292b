"""What became of the requests of each arm: plain numbers, written once per request and read a few times a second.

Decides which outcomes are an arm's fault. It must never judge them (``rollout.evidence`` does), and never lose any by
being read.
"""

from __future__ import annotations

from gateway.errors import ErrorCode
from rollout.evidence import HISTORY, ArmCounts, RecentOutcomes, Stretch

_RECENT_MASK = (1 << HISTORY) - 1

FAULTS = frozenset(
    {
        ErrorCode.INTERNAL,
        ErrorCode.NOT_READY,
        ErrorCode.OVERLOADED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.FEATURES_MISSING,
        ErrorCode.UNIMPLEMENTED,
    }
)
"""Errors behind the routing that are not the caller's: a full lane and a missed deadline are its version's doing.

Refusals for the whole process happen before a request has an arm, so a neighbour's load is held against nobody.
"""


class Tally:
    """Outcomes of one arm in one stretch."""

    __slots__ = (
        "defaulted",
        "errors",
        "invalid",
        "recent_failed",
        "requests",
        "seen_before",
        "slow",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.slow = 0
        self.invalid = 0
        self.defaulted = 0
        self.recent_failed = 0
        """Bit i: the outcome i requests ago was a failure."""
        self.seen_before = 0
        """Outcomes of the stretch before, at most ``HISTORY``."""

    def answered(self, late: bool, valid: bool, defaulted: bool) -> None:
        """One request has its answer."""
        self.requests += 1
        if late:
            self.slow += 1
        if not valid:
            self.invalid += 1
        if defaulted:
            self.defaulted += 1
        if self.recent_failed or not valid:
            self.recent_failed = (self.recent_failed << 1 | (not valid)) & _RECENT_MASK

    def failed(self, code: ErrorCode) -> None:
        """One request ended with an error; one that was the caller's mistake is no request at all."""
        if code not in FAULTS:
            return
        self.requests += 1
        self.errors += 1
        if code is ErrorCode.DEADLINE_EXCEEDED:
            self.slow += 1
        self.recent_failed = (self.recent_failed << 1 | 1) & _RECENT_MASK

    def counts(self) -> ArmCounts:
        """As values."""
        return ArmCounts(
            requests=self.requests,
            errors=self.errors,
            slow=self.slow,
            invalid=self.invalid,
            defaulted=self.defaulted,
        )

    def recent(self) -> RecentOutcomes:
        """The last outcomes, as a value."""
        seen = min(self.seen_before + self.requests, HISTORY)
        return RecentOutcomes(failed=self.recent_failed, seen=seen)


class StretchTallies:
    """Candidate and champion while the weights do not change."""

    __slots__ = ("candidate", "champion", "revision", "step")

    def __init__(self, revision: int, step: int) -> None:
        self.revision = revision
        self.step = step
        self.candidate = Tally()
        self.champion = Tally()

    def follow(self, earlier: StretchTallies) -> None:
        """Begin with the outcomes that the stretch before ended with: a failing arm fails on across a step."""
        for mine, theirs in (
            (self.candidate, earlier.candidate),
            (self.champion, earlier.champion),
        ):
            recent = theirs.recent()
            mine.recent_failed, mine.seen_before = recent.failed, recent.seen

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been counted."""
        return not (self.candidate.requests or self.champion.requests)

    def stretch(self) -> Stretch:
        """As a value."""
        return Stretch(
            revision=self.revision,
            step=max(self.step, 0),
            candidate=self.candidate.counts(),
            champion=self.champion.counts(),
        )
