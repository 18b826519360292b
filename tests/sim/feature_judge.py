"""What must become of a request, given the rows that its lookup came back with.

A second, slow telling of what views promise: status by status, default by default. It must never use what it judges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from backends.signature import Tensor
from featurecache.lookups.lookup_waiting import CORRUPT, UNREACHABLE
from tests.sim.feature_plans import ServicePlanned, StorePlan, ViewPlan
from tests.sim.feature_rows import EMPTY, default_facts, event_us_of, fact_columns, facts_of

Serials = Mapping[bytes, tuple[str, int, int]]


class Verdict:
    """What a request must come to."""

    def __init__(self) -> None:
        self.unfillable = False
        """Nothing may stand in for a row."""
        self.too_many_defaults = False
        self.fraction = 0.0
        self.facts: list[list[int]] = []
        self.shares: list[list[float]] = []
        self.statuses: dict[str, list[str]] = {}
        self.problem = ""
        """A row that is somebody else's."""

    @property
    def refused(self) -> bool:
        return self.unfillable or self.too_many_defaults

    def counts(self) -> Counter[tuple[str, str]]:
        """Rows by view and status."""
        return Counter((view, status) for view, found in self.statuses.items() for status in found)

    def inputs_problem(self, base: Sequence[Tensor], inputs: Sequence[Tensor]) -> str:
        """What is wrong with what the model is given."""
        if len(inputs) != 4:
            return f"has {len(inputs)} tensors for its model"
        wanted = (base[0], base[1], np.array(self.facts, np.int64), np.array(self.shares))
        for name, want, got in zip(("ids", "salt", "facts", "shares"), wanted, inputs, strict=True):
            if got.dtype != want.dtype or not np.array_equal(
                got, want, equal_nan=want.dtype.kind == "f"
            ):
                return f"gives its model wrong {name}: {got.tolist()}, not {want.tolist()}"
        return ""

    def report_problem(self, text: object) -> str:
        """What is wrong with what the caller is told."""
        if not isinstance(text, str):
            return f"was told {text!r} of its features"
        told = msgspec.json.decode(text)
        for view, statuses in self.statuses.items():
            about = told["views"].get(view, {})
            listed = about.get("rows") or ["PRESENT"] * len(statuses)
            if listed != statuses or about.get("status") != dict(Counter(statuses)):
                return f"was told {about} of {view}, not {statuses}"
        if abs(told["defaulted_fraction"] - self.fraction) > 1e-6:
            return f"was told of {told['defaulted_fraction']} defaults, not {self.fraction}"
        return ""


def judge(
    plan: StorePlan,
    service: ServicePlanned,
    entities: Sequence[int],
    rows: Sequence[bytes | None],
    aged: Collection[int],
    now_us: int,
    serials: Serials,
) -> Verdict:
    """``rows`` flat over all views, without those of callers that name no entity."""
    verdict = Verdict()
    facts: list[list[int]] = [[] for _ in entities]
    shares: list[list[float]] = [[] for _ in entities]
    slot = values = defaulted = 0
    for name in service.views:
        view = plan.view(name)
        statuses = verdict.statuses[name] = []
        columns = len(fact_columns(view)) + 1
        for at, entity in enumerate(entities):
            row, is_aged = None, False
            if entity != EMPTY:
                row, is_aged = rows[slot], slot in aged
                slot += 1
            known = None if row is None else serials.get(row)
            if known is not None and known[:2] != (name, entity):
                verdict.problem = f"entity {entity} got the row of {known}"
            status = _status(view, row, known is not None, now_us)
            statuses.append(status)
            if known is not None and (
                status == "PRESENT" or _may_be_old(view, row, is_aged, now_us)
            ):
                mine = facts_of(view, entity, known[2])
            else:
                policy = view.on_stale if status == "STALE" else view.on_missing
                verdict.unfillable |= policy == "fail" or view.has_hole
                mine = default_facts()
                defaulted += columns
            values += columns
            facts[at] += mine[0]
            shares[at].append(mine[1])
    verdict.facts, verdict.shares = facts, shares
    verdict.fraction = defaulted / values
    verdict.too_many_defaults = verdict.fraction > service.max_defaulted_fraction
    return verdict


def _status(view: ViewPlan, row: bytes | None, is_readable: bool, now_us: int) -> str:
    if row is None:
        return "MISSING"
    if row == UNREACHABLE:
        return "DEFAULTED"
    if row == CORRUPT or not is_readable:
        return "ERROR"
    age_s = (now_us - event_us_of(row)) * 1e-6
    return "PRESENT" if view.max_age_s is None or age_s <= view.max_age_s else "STALE"


def _may_be_old(view: ViewPlan, row: bytes | None, is_aged: bool, now_us: int) -> bool:
    if view.on_stale == "use":
        return True
    assert row is not None
    assert view.max_age_s is not None
    age_s = (now_us - event_us_of(row)) * 1e-6
    return is_aged and age_s <= view.max_age_s + view.stale_if_error_s
