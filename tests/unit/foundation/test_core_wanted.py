"""What a thread and a process wanted of their cores, from the kernel's own figures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foundation.core_wanted import CoreWanted, cores_of_one, wanted_clocks


def test_time_that_a_thread_ran_and_time_that_it_waited_both_count(tmp_path: Path) -> None:
    schedstat = tmp_path / "schedstat"
    schedstat.write_text("1500000000 500000000 7\n")
    wanted = CoreWanted(schedstat)
    assert wanted() == pytest.approx(2.0)
    schedstat.write_text("1500000000 900000000 8\n")
    assert wanted() == pytest.approx(2.4)
    wanted.close()


@pytest.mark.parametrize("text", [None, "", "no such numbers\n", "1 2\n"])
def test_without_the_kernels_figures_cpu_time_counts(tmp_path: Path, text: str | None) -> None:
    schedstat = tmp_path / "schedstat"
    if text is not None:
        schedstat.write_text(text)
    wanted = CoreWanted(schedstat)
    first = wanted()
    assert 0 <= first <= wanted()


def test_here_the_clocks_of_this_thread_never_go_back() -> None:
    clocks = wanted_clocks(1.0)
    earlier = [one() for one in clocks]
    sum(range(200_000))
    later = [one() for one in clocks]
    assert all(after >= before for before, after in zip(earlier, later, strict=True))
    assert later[1] > earlier[1]


def test_like_processes_share_the_cores_and_none_has_less_than_one() -> None:
    cores = len(os.sched_getaffinity(0))
    assert cores_of_one(1) == cores
    assert cores_of_one(1000 * cores) == 1.0
