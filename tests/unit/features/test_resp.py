"""One connection on a loop and a socket that the test plays itself."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import hiredis
import pytest

from featurecache.errors import SourceError
from featurecache.sources.resp import PING, RespConnection, pack, pack_mget
from featurecache.sources.source_limits import SourceLimits

LIMITS = SourceLimits(
    read_timeout_s=1.0, heartbeat_s=0.5, max_waiting_fetches=3, max_reply_bytes=1000
)


class Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """asyncio's loop as far as a connection needs it, on invented time."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.faults: list[dict[str, Any]] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._armed = 0

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[..., None], *what: object) -> Timer:
        self._armed += 1
        timer = Timer(lambda: callback(*what))
        heapq.heappush(self._timers, (when, self._armed, timer))
        return timer

    def call_soon(self, callback: Callable[..., None], *what: object) -> Timer:
        return self.call_at(self.now_s, callback, *what)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(context)

    def pass_time(self, seconds: float) -> None:
        """Every timer when it is due."""
        end_s = self.now_s + seconds
        while self._timers and self._timers[0][0] <= end_s:
            due_s, _, timer = heapq.heappop(self._timers)
            self.now_s = max(self.now_s, due_s)
            if timer.callback is not None:
                timer.callback()
        self.now_s = end_s

    def stall(self, seconds: float) -> None:
        """Time passes and no timer fires in it."""
        self.now_s += seconds


class Transport:
    def __init__(self) -> None:
        self.written = b""
        self.aborted = 0
        self.high = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted += 1

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high


class Line:
    """A connection with everything around it."""

    def __init__(self, limits: SourceLimits = LIMITS) -> None:
        self.loop = Loop()
        self.transport = Transport()
        self.heard: list[object] = []
        """Answers, pushes and the loss, in their order."""
        self.connection = RespConnection(
            self.loop,  # type: ignore[arg-type]
            limits,
            "the store",
            on_push=lambda frame: self.heard.append(("push", list(frame))),
            on_lost=lambda error: self.heard.append(("lost", str(error))),
        )
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    def ask(self, name: str, count: int = 1) -> None:
        def done(replies: object, error: SourceError | None) -> None:
            self.heard.append((name, replies if error is None else str(error)))

        self.connection.submit(b"?", count, done)


def test_commands_are_packed_as_hiredis_packs_them() -> None:
    for keys in ([b"a"], [b"ab", b"cd"], [b"a", b"bcd", b""], [bytes(range(256))] * 3, [b""]):
        assert pack_mget(keys) == hiredis.pack_command(("MGET", *keys))  # type: ignore[arg-type]
        assert pack(b"MGET", *keys) == pack_mget(keys)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_replies_go_to_those_who_asked_in_order_however_they_are_cut(size: int) -> None:
    line = Line()
    line.ask("a")
    line.ask("b", count=2)
    line.ask("c")
    bytes_ = (
        b"*2\r\n$1\r\nx\r\n_\r\n"
        b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n"
        b"+OK\r\n*1\r\n$3\r\n\r\n\0\r\n"
        b"-ERR no\r\n>2\r\n+invalidate\r\n_\r\n"
    )
    for start in range(0, len(bytes_), size):
        line.connection.data_received(bytes_[start : start + size])
    *answers, (name, [refusal]), flushed = line.heard  # type: ignore[misc]
    assert answers == [
        ("a", [[b"x", None]]),
        ("push", [b"invalidate", [b"k"]]),
        ("b", [b"OK", [b"\r\n\0"]]),
    ]
    assert name == "c"
    assert isinstance(refusal, hiredis.ReplyError)
    assert flushed == ("push", [b"invalidate", None])
    assert line.transport.aborted == 0


def test_a_reply_to_nobody_and_bytes_that_are_none_end_the_connection() -> None:
    for bytes_ in (b"+OK\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        line = Line()
        line.connection.data_received(bytes_)
        [(lost, why)] = line.heard  # type: ignore[misc]
        assert lost == "lost"
        assert "no RESP" in why
        assert line.transport.aborted == 1


def test_a_reply_beyond_the_limit_ends_the_connection() -> None:
    line = Line()
    line.ask("a")
    line.connection.data_received(b"$5000\r\n")
    for _ in range(9):
        line.connection.data_received(b"x" * 100)
    assert line.heard == []
    line.connection.data_received(b"x" * 100)
    assert line.heard == [
        ("a", "the store: a reply is larger than 1000 bytes"),
        ("lost", "the store: a reply is larger than 1000 bytes"),
    ]


def test_replies_that_end_do_not_add_up_to_the_limit() -> None:
    line = Line()
    for _ in range(50):
        line.ask("a")
        line.connection.data_received(b"$90\r\n" + b"x" * 90 + b"\r\n")
    assert len(line.heard) == 50


def test_a_reply_that_does_not_come_fails_all_that_wait_at_the_timeout_of_the_oldest() -> None:
    line = Line()
    line.loop.pass_time(0.3)
    line.ask("a")
    line.loop.pass_time(0.6)
    line.ask("b")
    line.loop.pass_time(0.399)
    assert line.heard == []
    line.loop.pass_time(0.002)
    said = "the store: no reply within 1000 ms"
    assert line.heard == [("a", said), ("b", said), ("lost", said)]
    assert line.transport.aborted == 1
    line.ask("c")
    assert len(line.heard) == 3, "told from inside submit"
    line.loop.pass_time(0.0)
    assert line.heard[3:] == [("c", said)]
    line.connection.connection_lost(None)
    assert len(line.heard) == 4, "lost twice"


def test_a_reply_that_lay_unread_behind_a_busy_loop_is_no_late_one() -> None:
    line = Line()
    line.ask("a")
    line.loop.stall(3.0)
    line.loop.pass_time(0.0)  # timers come before sockets
    assert line.heard == []
    line.connection.data_received(b"+OK\r\n")
    line.loop.pass_time(0.1)
    assert line.heard == [("a", [b"OK"])]


def test_after_a_busy_loop_a_reply_that_is_not_there_is_late() -> None:
    line = Line()
    line.ask("a")
    line.loop.stall(3.0)
    line.loop.pass_time(0.02)
    assert [name for name, _ in line.heard] == ["a", "lost"]  # type: ignore[misc]


def test_only_an_idle_connection_is_pinged_and_a_refused_ping_is_an_answer() -> None:
    line = Line()
    for _ in range(5):
        line.ask("a")
        line.connection.data_received(b"+OK\r\n")
        line.loop.pass_time(0.4)
    assert PING not in line.transport.written
    line.loop.pass_time(0.6)
    assert line.transport.written.endswith(PING)
    line.connection.data_received(b"-NOPERM\r\n")
    line.loop.pass_time(0.6)
    assert line.connection.lost is None
    line.loop.pass_time(2.1)
    assert line.heard[5:] == [("lost", "the store: no reply within 1000 ms")]


def test_the_limits_of_waiting_and_of_unsent_bytes() -> None:
    line = Line()
    assert line.transport.high == LIMITS.max_unsent_bytes
    for _ in range(3):
        assert not line.connection.is_full
        line.ask("a")
    assert line.connection.is_full
    line.connection.data_received(b"+OK\r\n")
    assert not line.connection.is_full
    line.connection.pause_writing()
    assert line.connection.is_full
    line.connection.resume_writing()
    assert not line.connection.is_full


def test_a_caller_that_fails_costs_nobody_else_the_answer() -> None:
    line = Line()

    def broken(_replies: object, _error: object) -> None:
        raise RuntimeError("no")

    line.connection.submit(b"?", 1, broken)
    line.ask("b")
    line.connection.data_received(b"+1\r\n+2\r\n")
    assert line.heard == [("b", [b"2"])]
    assert [str(fault["exception"]) for fault in line.loop.faults] == ["no"]


def test_a_caller_may_end_the_connection_from_its_answer() -> None:
    line = Line()
    why = SourceError("enough")
    line.connection.submit(b"?", 1, lambda _replies, _error: line.connection.abort(why))
    line.ask("b")
    line.connection.data_received(b"+1\r\n+2\r\n")
    assert line.heard == [("b", "enough"), ("lost", "enough")]
