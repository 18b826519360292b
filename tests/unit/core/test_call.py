from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from gateway.core.call import Call, Promise
from gateway.errors import CallCancelled

Ending = tuple[str | None, BaseException | None]


class Later(Promise[str]):
    """A value that the test settles."""

    __slots__ = ("error", "result", "settled", "waiter")

    def __init__(self) -> None:
        self.result: str | None = None
        self.error: BaseException | None = None
        self.waiter: Callable[[], None] | None = None
        self.settled = False


class Recorded(Call[str]):
    """A call that keeps how it ended."""

    __slots__ = ("endings",)

    def __init__(self) -> None:
        super().__init__()
        self.endings: list[Ending] = []

    def finish(self, result: str | None, error: BaseException | None) -> None:
        self.endings.append((result, error))

    @property
    def error(self) -> BaseException | None:
        [(result, error)] = self.endings
        assert result is None
        return error


async def awaiting(value: Awaitable[str]) -> str:
    return await value


def settled(result: str | None = None, error: BaseException | None = None) -> Later:
    promise = Later()
    promise.settle(result, error)
    return promise


def call(coroutine: Any) -> Recorded:
    one = Recorded()
    one.start(coroutine)
    return one


# -- the ordinary ends ----------------------------------------------------------------------------


def test_a_call_that_waits_for_nothing_ends_within_its_start() -> None:
    async def answer() -> str:
        return "at once"

    one = call(answer())
    assert one.endings == [("at once", None)]
    assert not one.running


def test_a_promise_that_is_settled_already_is_not_waited_for() -> None:
    assert call(awaiting(settled("here"))).endings == [("here", None)]


def test_a_call_continues_the_moment_its_promise_is_settled() -> None:
    promise = Later()
    one = call(awaiting(promise))
    assert (one.endings, one.running) == ([], True)
    promise.settle("later")
    assert (one.endings, one.running) == ([("later", None)], False)


def test_a_call_may_wait_for_one_promise_after_the_other() -> None:
    first, second = Later(), Later()

    async def both() -> str:
        return await first + await second

    one = call(both())
    first.settle("a")
    assert one.running
    second.settle("b")
    assert one.endings == [("ab", None)]


def test_hops_nest() -> None:
    promise = Later()

    async def outer() -> str:
        return f"<{await awaiting(promise)}>"

    one = call(outer())
    promise.settle("inner")
    assert one.endings == [("<inner>", None)]


def test_none_is_an_answer_too() -> None:
    assert call(awaiting(settled())).endings == [(None, None)]


def test_an_error_at_once_is_how_the_call_ends() -> None:
    async def fail() -> str:
        raise LookupError("at once")

    one = call(fail())
    assert isinstance(one.error, LookupError)
    assert not one.running


def test_a_promise_settled_with_an_error_raises_it_in_the_hop() -> None:
    promise = Later()
    one = call(awaiting(promise))
    error = LookupError("later")
    promise.settle(None, error)
    assert one.error is error


def test_a_hop_may_turn_an_error_into_an_answer() -> None:
    async def forgiving() -> str:
        try:
            return await settled(None, LookupError())
        except LookupError:
            return "forgiven"

    assert call(forgiving()).endings == [("forgiven", None)]


def test_a_promise_is_settled_once() -> None:
    promise = settled("first")
    with pytest.raises(AssertionError):
        promise.settle("second")
    assert promise.result == "first"


def test_a_promise_nobody_waits_for_can_be_settled() -> None:
    assert settled("unread").settled


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_process_ends_the_call_and_goes_on(stop: type[BaseException]) -> None:
    async def interrupted() -> str:
        raise stop

    one = Recorded()
    with pytest.raises(stop):
        one.start(interrupted())
    assert isinstance(one.error, stop)


# -- cancellation ---------------------------------------------------------------------------------


def test_cancelling_a_call_that_waits_unwinds_it_at_once() -> None:
    unwound: list[str] = []

    async def hop(promise: Later) -> str:
        try:
            return await promise
        finally:
            unwound.append("released")

    one = call(hop(Later()))
    one.cancel()
    assert isinstance(one.error, CallCancelled)
    assert unwound == ["released"]
    assert not one.running


def test_what_is_settled_after_a_cancellation_is_not_heard() -> None:
    promise = Later()
    one = call(awaiting(promise))
    one.cancel()
    promise.settle("too late")
    assert len(one.endings) == 1


def test_cancelling_before_the_start_does_nothing() -> None:
    one = Recorded()
    one.cancel()
    one.start(awaiting(settled("fine")))
    assert one.endings == [("fine", None)]


def test_cancelling_after_the_end_does_nothing() -> None:
    one = call(awaiting(settled("done")))
    one.cancel()
    assert one.endings == [("done", None)]


def test_cancelling_twice_ends_once() -> None:
    one = call(awaiting(Later()))
    one.cancel()
    one.cancel()
    assert len(one.endings) == 1


def test_an_error_while_unwinding_is_how_the_call_ends() -> None:
    async def clumsy() -> str:
        try:
            return await Later()
        except CallCancelled:
            raise LookupError("while unwinding") from None

    one = call(clumsy())
    one.cancel()
    assert isinstance(one.error, LookupError)


def test_a_hop_that_answers_its_cancellation_has_answered() -> None:
    async def stubborn() -> str:
        try:
            return await Later()
        except CallCancelled:
            return "had it already"

    one = call(stubborn())
    one.cancel()
    assert one.endings == [("had it already", None)]


def test_a_hop_that_swallows_its_cancellation_does_not_go_on() -> None:
    second = Later()
    unwound: list[str] = []

    async def deaf() -> str:
        with suppress(CallCancelled):
            await Later()
        try:
            return await second
        finally:
            unwound.append("closed")

    one = call(deaf())
    one.cancel()
    assert isinstance(one.error, CallCancelled)
    assert unwound == ["closed"]
    second.settle("nobody listens")
    assert len(one.endings) == 1


def test_a_hop_that_cannot_even_be_closed_ends_too() -> None:
    async def unclosable() -> str:
        for _ in range(3):
            try:
                await Later()
            except BaseException:  # noqa: BLE001  that is the point
                continue
        return "never"

    one = call(unclosable())
    one.cancel()
    assert isinstance(one.error, CallCancelled)


# -- a finish that fails --------------------------------------------------------------------------


class Broken(Recorded):
    __slots__ = ()

    def finish(self, result: str | None, error: BaseException | None) -> None:
        super().finish(result, error)
        raise OSError("the connection is gone")


def test_a_finish_that_fails_is_not_called_again() -> None:
    promise = Later()
    one = Broken()
    one.start(awaiting(promise))
    with pytest.raises(OSError, match="gone"):
        promise.settle("answer")
    assert one.endings == [("answer", None)]
    assert not one.running
    one.cancel()
    assert len(one.endings) == 1


@pytest.mark.parametrize("error", [None, LookupError()])
def test_a_finish_that_fails_within_the_start_is_heard_there(error: LookupError | None) -> None:
    one = Broken()
    with pytest.raises(OSError, match="gone"):
        one.start(awaiting(settled("answer", error)))
    assert len(one.endings) == 1


def test_a_finish_that_fails_on_cancellation_is_heard_there() -> None:
    one = Broken()
    one.start(awaiting(Later()))
    with pytest.raises(OSError, match="gone"):
        one.cancel()
    assert len(one.endings) == 1


def test_a_finish_may_start_the_next_call() -> None:
    """As a connection does with pipelined requests."""
    promise = Later()
    following = Recorded()

    class Chained(Recorded):
        __slots__ = ()

        def finish(self, result: str | None, error: BaseException | None) -> None:
            super().finish(result, error)
            following.start(awaiting(settled("next")))

    one = Chained()
    one.start(awaiting(promise))
    promise.settle("first")
    assert one.endings == [("first", None)]
    assert following.endings == [("next", None)]
