"""Threads that run batches too long for the event loop.

One thread for each instance of a lane, started with its first batch. Nothing here decides what runs or in which order:
the queue has decided that already. It must never block the loop, and a thread must never touch a ticket.
"""

from __future__ import annotations

import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from queue import SimpleQueue

from gateway.pipeline.execution import Outcome

Work = Callable[[], list[Outcome]]
Done = Callable[[list[Outcome]], None]

JOIN_TIMEOUT_S = 5.0


class ThreadWorker:
    """Runs work on at most ``threads`` threads and reports back on the loop."""

    def __init__(self, loop: AbstractEventLoop, threads: int, name: str) -> None:
        self._loop = loop
        self._limit = threads
        self._name = name
        self._waiting: SimpleQueue[tuple[Work, Done] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0

    def submit(self, work: Work, done: Done) -> None:
        """Run ``work`` on a thread, then ``done(outcomes)`` on the loop. Call from the loop only."""
        self._busy += 1
        if len(self._threads) < min(self._busy, self._limit):
            thread = threading.Thread(
                target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._waiting.put((work, done))

    def _run(self) -> None:
        while (job := self._waiting.get()) is not None:
            work, done = job
            outcomes = work()
            try:
                self._loop.call_soon_threadsafe(self._report, done, outcomes)
            except RuntimeError:
                return  # the loop has closed: nobody is left to tell
            del job, work, done, outcomes

    def _report(self, done: Done, outcomes: list[Outcome]) -> None:
        self._busy -= 1
        done(outcomes)

    def close(self) -> None:
        """Let the threads end after what they run now."""
        for _ in self._threads:
            self._waiting.put(None)

    def join(self) -> None:
        """Wait for the threads to end, after ``close``."""
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)
