"""The simulator is only worth what it finds: every planted bug must be found, and for the right reason."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import count, islice

import pytest

from tests.sim import planted_feature_bugs, planted_swap_bugs
from tests.sim.days import draw
from tests.sim.planted_bugs import BUGS
from tests.sim.planted_feature_bugs import FEATURE_BUGS
from tests.sim.simulation import Simulation, WrongDayError

SEEDS = range(40)
"""A bug must show itself within these; most need one or two."""
SIZE = 0.4


def feature_seeds() -> list[int]:
    """As many days that have a store."""
    with_store = (seed for seed in count() if draw(seed, SIZE).store is not None)
    return list(islice(with_store, len(SEEDS)))


assert planted_swap_bugs.BUGS is planted_feature_bugs.BUGS is BUGS  # they share one table


# A day that ends at its first wrong turn leaves coroutines behind that nobody will await.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    """Those of a planted bug are swept here, not in the middle of another test."""
    yield
    gc.collect()


def test_without_a_bug_nothing_is_found() -> None:
    for seed in SEEDS:
        Simulation(draw(seed, SIZE, busy=seed % 2 == 1)).play()


@pytest.mark.parametrize("name", BUGS)
def test_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, looks_like = BUGS[name]
    plant(monkeypatch)
    complaints: list[str] = []
    for seed in feature_seeds() if name in FEATURE_BUGS else SEEDS:
        simulation = Simulation(draw(seed, SIZE, busy=seed % 2 == 1))
        try:
            simulation.play()
        except WrongDayError:
            problem = simulation.history.problem
            if any(words in problem for words in looks_like):
                return
            complaints.append(f"seed {seed}: {problem}")
    pytest.fail(f"not found on {len(SEEDS)} days as {looks_like}, but as {complaints}")
