"""The simulator is only worth what it finds: every planted bug must be found, and for the right reason."""

from __future__ import annotations

import pytest

from tests.sim import planted_swap_bugs
from tests.sim.days import draw
from tests.sim.planted_bugs import BUGS
from tests.sim.simulation import Simulation, WrongDayError

SEEDS = range(40)
"""A bug must show itself within these; most need one or two."""
SIZE = 0.4
assert planted_swap_bugs.BUGS is BUGS  # it registers its bugs in the same table


def test_without_a_bug_nothing_is_found() -> None:
    for seed in SEEDS:
        Simulation(draw(seed, SIZE, busy=seed % 2 == 1)).play()


@pytest.mark.parametrize("name", BUGS)
def test_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, looks_like = BUGS[name]
    plant(monkeypatch)
    complaints: list[str] = []
    for seed in SEEDS:
        simulation = Simulation(draw(seed, SIZE, busy=seed % 2 == 1))
        try:
            simulation.play()
        except WrongDayError:
            problem = simulation.history.problem
            if any(words in problem for words in looks_like):
                return
            complaints.append(f"seed {seed}: {problem}")
    pytest.fail(f"not found on {len(SEEDS)} days as {looks_like}, but as {complaints}")
