"""Whatever a day brings, every lookup settles once, in time, with its own rows; and the days find planted bugs.

``LOOKUP_SEED`` plays one day alone; a complaint begins with its seed.
"""

from __future__ import annotations

import os

import pytest

from tests.unit.features.lookup_world import LookupDay, WrongLookupError
from tests.unit.features.planted_lookup_bugs import BUGS

ALONE = os.environ.get("LOOKUP_SEED", "")
SEEDS = [int(ALONE)] if ALONE else list(range(int(os.environ.get("LOOKUP_SEEDS", "16"))))
SEEDS_FOR_BUGS = range(12)
"""A bug must show itself within these; most need one or two."""


def day(seed: int) -> LookupDay:
    return LookupDay(seed, calm=seed % 2 == 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_holds(seed: int) -> None:
    played = day(seed)
    played.play()
    counters = played.rows.counters
    assert counters.lookups > 2000
    assert counters.missed_slots < counters.slots  # copies served
    assert counters.joined_slots > 0
    if not played.calm:
        assert counters.failed_reads + counters.late_reads > 0


def test_the_days_together_see_everything() -> None:
    days = [day(seed) for seed in range(6)]
    for one in days:
        one.play()
    for name in days[0].rows.counters.__struct_fields__:
        assert sum(getattr(one.rows.counters, name) for one in days) > 0, name
    assert sum(one.rows.snapshot().evictions for one in days) > 0
    assert sum(one.rows.snapshot().breaker_opened for one in days) > 0


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, looks_like = BUGS[name]
    plant(monkeypatch)
    complaints: list[str] = []
    for seed in SEEDS_FOR_BUGS:
        try:
            day(seed).play()
        except WrongLookupError as wrong:
            if any(words in str(wrong) for words in looks_like):
                return
            complaints.append(str(wrong))
    pytest.fail(f"not found on {len(SEEDS_FOR_BUGS)} days as {looks_like}, but as {complaints}")
