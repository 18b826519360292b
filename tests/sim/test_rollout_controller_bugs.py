"""The simulation of controllers is only worth what it finds: every planted bug, and for the right reason."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest

from tests.sim.planted_rollout_bugs import ROLLOUT_BUGS
from tests.sim.rollout_book import WrongStepError
from tests.sim.rollout_days import Day

SEEDS = range(40)
"""A bug must show itself within these; most need one or two."""

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("rollout").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("rollout").setLevel(logging.NOTSET)
    gc.collect()


@pytest.mark.parametrize("name", ROLLOUT_BUGS)
def test_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, looks_like, more_of = ROLLOUT_BUGS[name]
    plant(monkeypatch)
    complaints: list[str] = []
    for seed in SEEDS:
        try:
            Day(seed, more_of).play()
        except WrongStepError as error:
            if any(words in str(error) for words in looks_like):
                print(f"{name}: seed {seed}: {error}")
                return
            complaints.append(f"seed {seed}: {error}")
    pytest.fail(f"not found on {len(SEEDS)} days as {looks_like}, but as {complaints}")
