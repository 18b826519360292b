"""One connection to one server that takes calls without waiting for each reply.

Decides how many calls may be under way and when a lost one is sent again. Only calls that may be executed twice may
go through here. It must never forget a call whose reply has not come: it succeeds, or its error is raised.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import msgspec
from redis.exceptions import AskError, ConnectionError, MovedError, RedisError  # noqa: A004  redis-py's own

from featurecache.errors import SourceError
from featurecache.sources.dialing import Address
from featurecache.writing.store_client import Client, may_pass, source_error
from featurecache.writing.write_script import SCRIPT

MAX_CALLS_UNDER_WAY = 8
MAX_SMALL_CALLS_UNDER_WAY = 256
"""In a cluster, where a call has the few rows of one slot."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0

_ASKING = b"*1\r\n$6\r\nASKING\r\n"


class Call(msgspec.Struct, frozen=True):
    """A packed call of the script; all its keys are in one slot (of a server alone: 0)."""

    packed: bytes
    slot: int = 0
    asking: Address | None = None
    """The node that takes the slot over and has the keys already, so the cluster says."""


class MovedAwayError(Exception):
    """A call belongs to another node, or perhaps does; ``WriteLane.withdraw`` gives back what is left to do."""


class WriteLane:
    """Sends calls to one server; a broken connection is opened again and what was not answered sent again."""

    def __init__(
        self,
        client: Client,
        name: str,
        tell: Callable[[list[int]], None],
        *,
        patience_s: float,
        moves: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``tell``: given each reply. ``patience_s``: for how long a server may be away. ``moves``: of a cluster."""
        self._client, self._name, self._tell = client, name, tell
        self._patience_s, self._moves = patience_s, moves
        self._clock, self._sleep = clock, sleep
        self._connection: Any = None
        self._calls: deque[Call] = deque()
        self._sent = 0
        self._troubled_since_s: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self.repeats = 0
        """How often calls were sent again."""

    def submit(self, calls: Sequence[Call]) -> None:
        """Send them; waits for older replies only when too many are under way. Raises ``SourceError``."""
        self._calls.extend(calls)
        self._until(MAX_SMALL_CALLS_UNDER_WAY if self._moves else MAX_CALLS_UNDER_WAY)

    def flush(self) -> None:
        """Return when every call was answered. Raises ``SourceError``."""
        self._until(0)

    def withdraw(self) -> list[Call]:
        """Everything that was not answered; the lane begins anew."""
        self._hang_up()
        left, self._calls = list(self._calls), deque()
        return left

    def close(self) -> None:
        """Let go of the connection; calls that are under way may or may not be executed."""
        self._hang_up()
        self._calls.clear()

    def _until(self, allowed: int) -> None:
        while True:
            try:
                self._exchange(allowed)
                return
            except MovedError as error:
                if not self._moves:
                    raise source_error(error, self._name) from error
                self._hang_up()
                self._pause()
                if isinstance(error, AskError):
                    asked = Address(error.host, error.port)
                    self._calls[0] = msgspec.structs.replace(self._calls[0], asking=asked)
                raise MovedAwayError from error
            except RedisError as error:
                self._bear(error)
                if self._moves:  # another node may have taken over
                    raise MovedAwayError from error

    def _exchange(self, allowed: int) -> None:
        connection = self._connection or self._connect()
        unsent = list(islice(self._calls, self._sent, None))
        if unsent:
            packed = [_ASKING + one.packed if one.asking else one.packed for one in unsent]
            connection.send_packed_command([b"".join(packed)], check_health=False)
            self._sent += len(unsent)
        while self._sent > allowed:
            if self._calls[0].asking:
                connection.read_response()
            reply = connection.read_response()
            if isinstance(reply, RedisError):
                raise reply
            self._calls.popleft()
            self._sent -= 1
            self._troubled_since_s, self._pause_s = None, FIRST_PAUSE_S
            self._tell(reply)

    def _connect(self) -> Any:
        pool: Any = self._client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command("SCRIPT", "LOAD", SCRIPT)
            answer = connection.read_response()
            if isinstance(answer, RedisError):
                raise answer
        except BaseException:
            connection.disconnect()
            pool.release(connection)
            raise
        self._connection = connection
        return connection

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        self._sent = 0
        if connection is not None:
            connection.disconnect()
            self._client.connection_pool.release(connection)

    def _bear(self, error: RedisError) -> None:
        """Pause before the next try, or give up."""
        self._hang_up()
        now_s = self._clock()
        if self._troubled_since_s is None:
            self._troubled_since_s = now_s
        if not may_pass(error) or now_s - self._troubled_since_s >= self._patience_s:
            raise source_error(error, self._name) from error
        self._pause()

    def _pause(self) -> None:
        self.repeats += 1
        self._sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)


def reachable(client: Client, name: str) -> None:
    """Raise ``SourceError`` unless the server answers now."""
    try:
        client.ping()
    except (RedisError, ConnectionError) as error:
        raise source_error(error, name) from error
    except OSError as error:
        raise SourceError(f"{name} cannot be reached: {error}") from error
