"""One connection that speaks RESP, shared by everybody who asks: commands go out at once, replies come back in order.

Decides which reply belongs to whom, and when a silent connection is dead: when its oldest reply is later than the read
timeout, or when an idle one does not answer a ping. Nobody can cancel a command here, since a reply that nobody awaits
any more must still be taken off the wire. No command costs a future or a task; it must never call back from inside
``submit``, and never keep more than its limits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import hiredis

from featurecache.errors import SourceError
from featurecache.sources.source_limits import SourceLimits

Replies: TypeAlias = list[Any]
"""As the parser gives them: bytes, int, None, list, dict, or a ``ReplyError`` in the place of a refused command."""

RepliesDone: TypeAlias = Callable[[Replies | None, SourceError | None], None]
PushReceived: TypeAlias = Callable[[list[Any]], None]
Lost: TypeAlias = Callable[[SourceError], None]

ReplyError = hiredis.ReplyError

PING = b"*1\r\n$4\r\nPING\r\n"
CACHING_YES = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n"
LATE_TIMER_S = 0.01
"""A timer that fires this much late tells of a busy loop, behind which replies may lie unread."""

_UNFINISHED = object()


def pack(*words: bytes) -> bytes:
    """One command."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts += (b"$%d\r\n" % len(word), word, b"\r\n")
    return b"".join(parts)


def pack_mget(keys: Sequence[bytes]) -> bytes:
    """``MGET`` of at least one key; several times faster than in general where the keys are equally long."""
    lengths = set(map(len, keys))
    if len(lengths) > 1:
        return pack(b"MGET", *keys)
    length = lengths.pop()
    head = b"*%d\r\n$4\r\nMGET\r\n$%d\r\n" % (len(keys) + 1, length)
    return head + (b"\r\n$%d\r\n" % length).join(keys) + b"\r\n"


class _Waiting:
    """A command or several that one caller sent together."""

    __slots__ = ("count", "done", "replies", "sent_s")

    def __init__(self, count: int, done: RepliesDone, sent_s: float) -> None:
        self.count = count
        self.done = done
        self.sent_s = sent_s
        self.replies: Replies = []


class RespConnection(asyncio.Protocol):
    """An open connection; ``on_lost`` is called once at its end, after everybody who waited was told."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: SourceLimits,
        name: str,
        *,
        on_push: PushReceived,
        on_lost: Lost,
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._name = name
        self._on_push = on_push
        self._on_lost = on_lost
        self._reader = hiredis.Reader(notEnoughData=_UNFINISHED)
        self._waiting: deque[_Waiting] = deque()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._paused = False
        self._heard = False
        self._unfinished_bytes = 0
        self.lost: SourceError | None = None
        """Why the connection ended; None while it lives."""

    # -- asking -----------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether one more command would go beyond the limits."""
        return self._paused or len(self._waiting) >= self._limits.max_waiting_fetches

    @property
    def waiting(self) -> int:
        """How many callers wait for replies."""
        return len(self._waiting)

    def submit(self, commands: bytes, count: int, done: RepliesDone) -> None:
        """Send packed ``commands``, of which the server makes ``count`` replies; ``done`` gets them all together."""
        if self.lost is not None or self._transport is None:
            self._loop.call_soon(done, None, self.lost or SourceError(f"{self._name}: closed"))
            return
        self._waiting.append(_Waiting(count, done, self._loop.time()))
        self._transport.write(commands)

    async def ask(self, *words: bytes) -> Any:
        """The reply to one command, a ``ReplyError`` if the server refused it; for what is seldom asked."""
        return (await self.ask_all([words]))[0]

    async def ask_all(self, commands: Sequence[Sequence[bytes]]) -> Replies:
        """The replies to commands that are sent together.

        Raises:
            SourceError: The connection ended before.
        """
        answer: asyncio.Future[Replies] = self._loop.create_future()

        def done(replies: Replies | None, error: SourceError | None) -> None:
            if answer.done():
                return
            if replies is None:
                answer.set_exception(error or SourceError(f"{self._name}: no reply"))
            else:
                answer.set_result(replies)

        self.submit(b"".join(pack(*words) for words in commands), len(commands), done)
        return await answer

    def abort(self, error: SourceError) -> None:
        """End the connection now; who waits is told ``error``."""
        if self.lost is not None:
            return
        self.lost = error
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            self._tell(one.done, None, error)
        self._on_lost(error)

    # -- what the loop calls ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open, over TLS if that was asked."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of classes of their own
        if self.lost is not None:  # given up meanwhile
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=self._limits.max_unsent_bytes)
        self._watch_from(self._loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side, or the way to it, ended the connection."""
        reason = f"the connection broke: {exc}" if exc else "the server closed the connection"
        self.abort(SourceError(f"{self._name}: {reason}"))

    def pause_writing(self) -> None:
        """The server does not take what was written."""
        self._paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False

    def data_received(self, data: bytes) -> None:
        """Some more bytes of replies."""
        self._heard = True
        reader, waiting = self._reader, self._waiting
        self._unfinished_bytes += len(data)
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _UNFINISHED:
                self._unfinished_bytes = 0
                if type(reply) is hiredis.PushNotification:
                    self._tell(self._on_push, reply)
                elif not waiting:
                    raise hiredis.ProtocolError("a reply to no command")
                else:
                    oldest = waiting[0]
                    oldest.replies.append(reply)
                    if len(oldest.replies) == oldest.count:
                        waiting.popleft()
                        self._tell(oldest.done, oldest.replies, None)
                if self.lost is not None:
                    return
        except hiredis.ProtocolError as error:
            self.abort(SourceError(f"{self._name}: what came is no RESP: {error}"))
            return
        if self._unfinished_bytes > self._limits.max_reply_bytes:
            most = self._limits.max_reply_bytes
            self.abort(SourceError(f"{self._name}: a reply is larger than {most} bytes"))

    # -- watching ---------------------------------------------------------------------------------

    def _watch_from(self, now_s: float) -> None:
        """One timer does it all: while nothing waits it ticks at least as often as the read timeout, so whatever is
        sent between two ticks is looked at in time.
        """
        limits = self._limits
        if self._waiting:
            due_s = self._waiting[0].sent_s + limits.read_timeout_s
        else:
            due_s = now_s + min(limits.heartbeat_s, limits.read_timeout_s)
        self._watch = self._loop.call_at(due_s, self._look, due_s, False)

    def _look(self, due_s: float, again: bool) -> None:
        now_s = self._loop.time()
        timeout_s = self._limits.read_timeout_s
        if self._waiting and now_s >= self._waiting[0].sent_s + timeout_s:
            if now_s - due_s > LATE_TIMER_S and not again:
                # The loop was busy and has not read its sockets yet: one more look after it could.
                due_s = now_s + LATE_TIMER_S / 2
                self._watch = self._loop.call_at(due_s, self._look, due_s, True)
                return
            late_ms = timeout_s * 1e3
            self.abort(SourceError(f"{self._name}: no reply within {late_ms:g} ms"))
            return
        if not self._waiting and not self._heard:
            self.submit(PING, 1, _ignore)  # a refusal is a sign of life too
        self._heard = False
        self._watch_from(now_s)

    def _tell(self, callback: Callable[..., None], *what: object) -> None:
        """A fault of one caller must not cost the others their replies."""
        try:
            callback(*what)
        except Exception as error:  # noqa: BLE001  the loop's handler reports it; the connection lives on
            self._loop.call_exception_handler(
                {"message": f"a callback of {self._name} failed", "exception": error}
            )


def _ignore(_replies: Replies | None, _error: SourceError | None) -> None:
    """Nobody waits for this one."""
