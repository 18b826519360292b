"""Driving a request's coroutine without a task.

The hops are coroutines because they read well and compose, but an asyncio task costs more than most hops do.
A ``Call`` steps one coroutine by hand: it runs until it waits for a ``Promise``, and continues, synchronously,
the moment that promise is settled. A whole batch of answers is therefore written in one sweep of the loop.

It knows no event loop, no clock and no task; and it must never swallow an exception: each call ends exactly once, in
``finish``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gateway.errors import CallCancelled

ResultT = TypeVar("ResultT")


class Promise(Generic[ResultT]):
    """A value that comes later. One waiter; settled exactly once, then its waiter continues at once.

    Subclasses declare the slots ``result``, ``error``, ``waiter`` and ``settled`` (a mix-in without slots of its own,
    so that a queue item can be its own promise).
    """

    if not TYPE_CHECKING:  # the subclass owns the storage, which a type checker cannot follow
        __slots__ = ()

    result: ResultT | None
    error: BaseException | None
    waiter: Callable[[], None] | None
    settled: bool

    def __await__(self) -> Generator[Promise[ResultT], None, ResultT]:
        if not self.settled:
            yield self
        if self.error is not None:
            raise self.error
        assert self.settled, self
        return self.result  # type: ignore[return-value]  # settled without an error

    def settle(self, result: ResultT | None, error: BaseException | None = None) -> None:
        """Give the value (or the error) and run the waiter."""
        assert not self.settled, self
        self.settled = True
        self.result = result
        self.error = error
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            waiter()


class Call(ABC, Generic[ResultT]):
    """One request on its way. Subclasses say in ``finish`` what becomes of the answer."""

    __slots__ = ("_coroutine", "_promise")

    def __init__(self) -> None:
        self._coroutine: Coroutine[Any, Any, ResultT] | None = None
        self._promise: Promise[Any] | None = None

    def start(self, coroutine: Coroutine[Any, Any, ResultT]) -> None:
        """Run the coroutine up to its first wait. It may end within this call."""
        self._coroutine = coroutine
        self._step()

    def _step(self) -> None:
        coroutine = self._coroutine
        assert coroutine is not None
        self._promise = None
        try:
            promise = coroutine.send(None)
        except StopIteration as stop:
            self._coroutine = None
            self.finish(stop.value, None)
        except BaseException as error:
            self._coroutine = None
            self.finish(None, error)
            if not isinstance(error, (Exception, CallCancelled)):
                raise
        else:
            self._promise = promise
            promise.waiter = self._step

    def cancel(self) -> None:
        """The caller went away: let the coroutine unwind now. Harmless when the call has ended."""
        coroutine, promise = self._coroutine, self._promise
        if coroutine is None or promise is None:
            return
        self._coroutine = self._promise = None
        promise.waiter = None
        error: BaseException = CallCancelled()
        try:
            coroutine.throw(error)
        except StopIteration as stop:
            self.finish(stop.value, None)
            return
        except BaseException as raised:  # noqa: BLE001  it is handed to finish
            error = raised
        else:
            # It waits for something else instead: a hop may not go on after its caller has gone.
            with suppress(Exception):
                coroutine.close()
        self.finish(None, error)

    @property
    def running(self) -> bool:
        """Whether the call waits for something."""
        return self._coroutine is not None

    @abstractmethod
    def finish(self, result: ResultT | None, error: BaseException | None) -> None:
        """The end of the call: exactly one of the two is meaningful (``error`` is None on success)."""
