"""What one process has counted of one plan, from its submission on: what a worker reports.

Decides when a new stretch begins (with every revision: weights change only with one) and what is still known. It must
never forget a count while the plan is the same one.
"""

from __future__ import annotations

from gateway.core.arm_counts import StretchTallies
from rollout.evidence import PairedScores
from rollout.plan import Plan
from rollout.ports import Counters
from rollout.shadow_report import ShadowReport

MAX_KEPT_STRETCHES = 1024
"""Of one plan. Beyond them the oldest is forgotten, and the counters say that they are not complete."""


class PlanCounts:
    """Counts of the plan that ``begin`` was last called with, and of its earlier revisions."""

    __slots__ = ("_began", "_is_complete", "current", "stretches")

    def __init__(self) -> None:
        self._began: tuple[int, float] | None = None
        self._is_complete = True
        self.stretches: list[StretchTallies] = []
        self.current = StretchTallies(0, 0)

    def begin(self, plan: Plan) -> StretchTallies:
        """The tallies of a revision that comes into force now; a plan that is another one begins from nothing."""
        began = (plan.began_revision, plan.created_s)
        stretch = StretchTallies(plan.revision, plan.step)
        if began == self._began:
            stretch.follow(self.current)
        else:
            self.stretches.clear()
            self._is_complete = True
        self._began = began
        self.stretches.append(stretch)
        if len(self.stretches) > MAX_KEPT_STRETCHES:
            del self.stretches[0]
            self._is_complete = False
        self.current = stretch
        return stretch

    def counters(
        self,
        paired_scores: PairedScores | None = None,
        comparisons: tuple[ShadowReport, ...] = (),
        *,
        is_final: bool,
    ) -> Counters:
        """All of it, as a report holds it."""
        return Counters(
            stretches=tuple(one.stretch() for one in self.stretches if not one.is_empty),
            candidate_recent=self.current.candidate.recent(),
            champion_recent=self.current.champion.recent(),
            paired_scores=paired_scores,
            comparisons=comparisons,
            is_complete=self._is_complete,
            is_final=is_final,
        )
