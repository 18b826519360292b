"""Threads for long batches, on a real loop. Nothing sleeps: everybody waits for somebody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from gateway.pipeline.execution import Outcome
from gateway.pipeline.workers import ThreadWorker

LONG_S = 10.0
"""Nothing here takes this long; a test that hangs fails."""

T = TypeVar("T")


def on_a_loop(test: Callable[[ThreadWorker], Awaitable[T]], threads: int = 1) -> T:
    async def run() -> T:
        worker = ThreadWorker(asyncio.get_running_loop(), threads, "lane")
        try:
            async with asyncio.timeout(LONG_S):
                return await test(worker)
        finally:
            worker.close()
            worker.join()

    return asyncio.run(run())


async def ran(worker: ThreadWorker, work: Callable[[], list[Outcome]]) -> list[Outcome]:
    future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
    worker.submit(work, future.set_result)
    return await future


def nothing() -> list[Outcome]:
    return []


def lane_threads() -> list[str]:
    return sorted(one.name for one in threading.enumerate() if one.name.startswith("lane-"))


def test_work_runs_on_a_thread_and_is_reported_on_the_loop() -> None:
    places: list[threading.Thread] = []

    def work() -> list[Outcome]:
        places.append(threading.current_thread())
        return [[]]

    async def test(worker: ThreadWorker) -> None:
        done: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()

        def report(outcomes: list[Outcome]) -> None:
            places.append(threading.current_thread())
            done.set_result(outcomes)

        worker.submit(work, report)
        assert await done == [[]]

    on_a_loop(test)
    assert places[0].name == "lane-0"
    assert places[1] is threading.current_thread()


def test_no_thread_starts_before_there_is_work() -> None:
    async def test(worker: ThreadWorker) -> list[str]:
        return lane_threads()

    assert on_a_loop(test, threads=4) == []


def test_work_in_turn_needs_one_thread() -> None:
    async def test(worker: ThreadWorker) -> list[str]:
        for _ in range(5):
            await ran(worker, nothing)
        return lane_threads()

    assert on_a_loop(test, threads=4) == ["lane-0"]


def test_work_at_the_same_time_runs_on_as_many_threads_as_allowed() -> None:
    meeting = threading.Barrier(2)

    def meet() -> list[Outcome]:
        meeting.wait(LONG_S)
        return []

    async def test(worker: ThreadWorker) -> list[str]:
        await asyncio.gather(*[ran(worker, meet) for _ in range(6)])
        return lane_threads()

    assert on_a_loop(test, threads=2) == ["lane-0", "lane-1"]


def test_one_thread_keeps_the_order() -> None:
    order: list[int] = []

    def note(number: int) -> Callable[[], list[Outcome]]:
        def work() -> list[Outcome]:
            order.append(number)
            return []

        return work

    async def test(worker: ThreadWorker) -> None:
        await asyncio.gather(*[ran(worker, note(number)) for number in range(10)])

    on_a_loop(test)
    assert order == list(range(10))


def test_the_loop_goes_on_while_work_runs() -> None:
    release = threading.Event()

    def wait() -> list[Outcome]:
        assert release.wait(LONG_S)
        return []

    async def test(worker: ThreadWorker) -> bool:
        working = asyncio.ensure_future(ran(worker, wait))
        for _ in range(3):
            await asyncio.sleep(0)
        went_on = not working.done()
        release.set()
        await working
        return went_on

    assert on_a_loop(test)


def test_work_may_be_followed_by_work_from_its_report() -> None:
    """As a lane does: the next batch starts where the last one is reported."""

    async def test(worker: ThreadWorker) -> int:
        finished: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def report(turns: int) -> Callable[[list[Outcome]], None]:
            def done(outcomes: list[Outcome]) -> None:
                if turns == 3:
                    finished.set_result(turns)
                else:
                    worker.submit(nothing, report(turns + 1))

            return done

        worker.submit(nothing, report(1))
        return await finished

    assert on_a_loop(test) == 3


def test_closing_lets_every_thread_end() -> None:
    async def test(worker: ThreadWorker) -> None:
        await asyncio.gather(*[ran(worker, nothing) for _ in range(3)])

    on_a_loop(test, threads=3)
    assert lane_threads() == []


def test_closing_what_was_never_used_is_nothing() -> None:
    async def test(worker: ThreadWorker) -> None:
        worker.close()
        worker.join()

    on_a_loop(test)


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_loop_that_closed_meanwhile_stops_the_thread_quietly(jobs: int) -> None:
    release = threading.Event()

    def wait() -> list[Outcome]:
        assert release.wait(LONG_S)
        return []

    reported: list[list[Outcome]] = []
    loop = asyncio.new_event_loop()
    worker = ThreadWorker(loop, 1, "lane")
    for _ in range(jobs):
        worker.submit(wait, reported.append)
    loop.close()
    release.set()
    worker.close()
    worker.join()
    assert lane_threads() == []
    assert reported == []
