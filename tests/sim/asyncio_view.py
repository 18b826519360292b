"""What asyncio sees of the virtual loop: enough to run the coroutines of control calls on invented time.

Tasks, futures, locks, sleeps and threads of asyncio work on it unchanged. What is given to a thread is done at once,
and reported when the time is over that it says it took. It must never run anything outside a turn of the virtual loop.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, cast

from tests.sim.virtual_loop import Handle, ProcessLoop

Report = Callable[[str], None]


class _Timer(asyncio.TimerHandle):
    """A timer that is taken off the virtual loop, too, when asyncio cancels it."""

    virtual: Handle


class AsyncioView(asyncio.AbstractEventLoop):
    """One process's event loop, as asyncio knows event loops."""

    def __init__(self, loop: ProcessLoop, complain: Report) -> None:
        self._loop = loop
        self._complain = complain
        self._thread_s = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._readers: dict[int, Callable[[], object]] = {}
        self.on_watch: Callable[[int], None] = lambda fileno: None
        """Told of each file that is watched from now on: something may wait there already."""

    def time(self) -> float:
        return self._loop.now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._loop.alive:
            self._complain(f"{context.get('message')}: {context.get('exception')!r}")

    # -- callbacks --------------------------------------------------------------------------------

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._loop.call_soon(lambda: self._run(handle))
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        timer.virtual = self._loop.call_at(when, lambda: self._run(timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        assert isinstance(handle, _Timer)
        handle.virtual.cancel()

    def _run(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            handle._run()
        finally:
            events._set_running_loop(before)

    # -- what asyncio builds on them --------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        work: Coroutine[Any, Any, Any] = coro
        task = asyncio.Task(work, loop=self, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have it done; nobody waits for it."""
        self.create_task(work)  # type: ignore[unused-awaitable]

    def abandon(self) -> None:
        """What is not done will never be."""
        self._loop.alive = False
        for task in self._tasks:
            if not task.done():
                with suppress(RuntimeError):
                    cast("Coroutine[Any, Any, Any]", task.get_coro()).close()

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        self._thread_s = 0.0
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits for the thread
            self.call_later(self._thread_s, _fail, future, error)
        else:
            self.call_later(self._thread_s, _answer, future, result)
        return future

    def spend_on_thread(self, seconds: float) -> None:
        """What runs on a thread now takes this long."""
        self._thread_s += seconds

    # -- files ------------------------------------------------------------------------------------

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        self._readers[fd] = lambda: callback(*args)
        self.on_watch(fd)

    def remove_reader(self, fd: Any) -> bool:
        return self._readers.pop(fd, None) is not None

    def is_watched(self, fileno: int) -> bool:
        return fileno in self._readers

    def read(self, fileno: int) -> None:
        """There is something to read."""
        reader = self._readers.get(fileno)
        if reader is not None:
            reader()


def _answer(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
