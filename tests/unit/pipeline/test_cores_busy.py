"""The figure by which copies are shed when the cores are busy."""

from __future__ import annotations

from gateway.pipeline.shadow_copies import BUSY_WINDOW_S, CoresBusy


def test_the_busiest_clock_is_told_and_only_after_a_window() -> None:
    thread, process = [0.0], [0.0]
    busy = CoresBusy([lambda: thread[0], lambda: process[0]], now_s=0.0)
    thread[0], process[0] = 0.2 * BUSY_WINDOW_S, 0.4 * BUSY_WINDOW_S
    assert busy.share(0.5 * BUSY_WINDOW_S) == 0.0
    assert abs(busy.share(BUSY_WINDOW_S) - 0.4) < 1e-9
    thread[0] += 1.8 * BUSY_WINDOW_S
    assert abs(busy.share(3 * BUSY_WINDOW_S) - 0.9) < 1e-9


def test_without_clocks_the_cores_are_never_busy() -> None:
    assert CoresBusy((), now_s=0.0).share(10.0) == 0.0
