"""Who may look at rollouts and change them at the admin port.

With a tokens file everybody needs a token, from wherever they call; the file is followed while the gateway runs, and a
later one that cannot be used changes nothing. Without one, changes come from this machine only, as all others at this
port, and callers say who they are. Decides also how often one caller may ask for changes. No message or log line may
contain a token; whether a model has a rollout is told only to those who may look.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from foundation.tokens import AccessError, Role, Token, TokenError, TokenRing, read_tokens
from gateway.core.arms import refuse_all
from gateway.core.quota import TokenBucket
from gateway.edge.http_access import MutationsFromLoopbackOnly
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.ports import Clock
from rollout.transitions import MAX_AUTHOR_CHARACTERS, Author
from rollout.transitions import Role as PlanRole

logger = logging.getLogger("headrace.access_tokens")

ROOT = "/v2/rollouts"
AUTHOR_HEADER = "x-headrace-author"
LOCAL = "local"
"""Who changes something from this machine and does not say who it is."""
HOW_TO_SEND = "'authorization: Bearer hrt_…'"

_ROLES: Mapping[Role, PlanRole] = {
    Role.VIEWER: "viewer",
    Role.OPERATOR: "operator",
    Role.APPROVER: "approver",
}
_BEHIND_WALL = "headrace.rollouts_behind_wall"
"""Set in the scope of a request that came through ``RolloutWall``."""


class Caller(msgspec.Struct, frozen=True):
    """Somebody who may do what was asked for."""

    author: Author
    key: str
    """Tells callers apart: a token's id, or the same for all of this machine."""


class RolloutAccess:
    """The tokens in force, or the rule without any. Raises ``AccessError`` for a file that cannot be used at first.

    ``clock`` runs the limit of changes, ``utc_clock`` (seconds since 1970) the tokens' expiry.
    """

    def __init__(
        self,
        file: Path | None,
        *,
        max_changes_per_min: int,
        clock: Clock = time.monotonic,
        utc_clock: Clock = time.time,
    ) -> None:
        self._file = file
        self._max_changes_per_min = max_changes_per_min
        self._clock = clock
        self._utc_clock = utc_clock
        self._buckets: dict[str, TokenBucket] = {}
        self._reading: asyncio.Future[list[Token]] | None = None
        self._ring = TokenRing([])
        self._seen = _stamp(file)
        if file is not None:
            self.use(read_tokens(file))

    @property
    def asks_for_tokens(self) -> bool:
        return self._file is not None

    # -- calls ------------------------------------------------------------------------------------

    def may_look(self, scope: Any) -> None:
        """Raises UNAUTHENTICATED or PERMISSION_DENIED for who may not."""
        if self.asks_for_tokens:
            self._holder(scope, Role.VIEWER)

    def may_change(self, scope: Any) -> Caller:
        """Who asks for a change, which counts; raises QUOTA_EXCEEDED besides, when they asked for too many."""
        if self.asks_for_tokens:
            token = self._holder(scope, Role.OPERATOR)
            caller = Caller(Author(token.name, _ROLES[token.role]), token.id)
        elif scope.get(_BEHIND_WALL):
            caller = Caller(Author(_author_named(scope), "approver"), LOCAL)
        else:
            raise HeadraceError(
                ErrorCode.PERMISSION_DENIED, "changes are taken from this machine only"
            )
        self._count(caller)
        return caller

    def may_choose_arm(self, presented: str) -> None:
        """Raises UNAUTHENTICATED or PERMISSION_DENIED unless an operator's token came with a prediction."""
        if not self.asks_for_tokens:
            refuse_all(presented)
        self._admit(presented.encode("latin-1", "replace"), Role.OPERATOR)

    def _holder(self, scope: Any, needed: Role) -> Token:
        presented = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(presented) != 1 or presented[0][:7].lower() != b"bearer ":
            raise HeadraceError(
                ErrorCode.UNAUTHENTICATED,
                f"rollouts ask for an operator's token: send {HOW_TO_SEND}",
            )
        return self._admit(presented[0][7:].strip(), needed)

    def _admit(self, presented: bytes, needed: Role) -> Token:
        now = datetime.fromtimestamp(self._utc_clock(), UTC)
        try:
            return self._ring.admit(presented, needed, now)
        except TokenError as error:
            code = ErrorCode.PERMISSION_DENIED if error.is_known else ErrorCode.UNAUTHENTICATED
            raise HeadraceError(code, str(error)) from None

    def _count(self, caller: Caller) -> None:
        bucket = self._buckets.get(caller.key)
        now = self._clock()
        if bucket is None:  # one per token in force at most
            most = self._max_changes_per_min
            bucket = self._buckets[caller.key] = TokenBucket(most / 60, float(most), now)
        wait_s = bucket.take(now)
        if wait_s:
            raise HeadraceError(
                ErrorCode.QUOTA_EXCEEDED,
                f"'{caller.author.name}' asked for more than {self._max_changes_per_min} changes a minute "
                "(rollout.max_changes_per_min): try again later",
                retry_after_s=wait_s,
            )

    # -- the tokens file --------------------------------------------------------------------------

    def use(self, tokens: list[Token]) -> None:
        """These tokens are in force from now on; who was known before goes on being counted."""
        self._ring = TokenRing(tokens)
        known = {token.id for token in tokens}
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if key in known}

    def sweep(self) -> None:
        """Called about once a second, on the loop: a changed file is read on a thread."""
        if self._file is None or self._reading is not None:
            return
        stamp = _stamp(self._file)
        if stamp != self._seen:
            self._seen = stamp
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(None, read_tokens, self._file)
            self._reading.add_done_callback(self._on_read)

    def _on_read(self, reading: asyncio.Future[list[Token]]) -> None:
        self._reading = None
        if reading.cancelled():
            return
        error = reading.exception()
        if error is None:
            self.use(reading.result())
            logger.info("the tokens were read again", extra={"tokens": len(reading.result())})
        elif isinstance(error, AccessError):
            logger.error(
                "the tokens file cannot be used, the tokens before stay in force: %s", error
            )
        else:
            logger.error(
                "the tokens file could not be read; the tokens before stay", exc_info=error
            )


class RolloutWall:
    """ASGI middleware of the admin port, in the place of the wall for changes: tokens open it for rollouts alone."""

    def __init__(self, app: Any, access: RolloutAccess) -> None:
        self._app = app
        self._access = access
        self._walled = MutationsFromLoopbackOnly(app)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and _is_of_rollouts(scope["path"]):
            if self._access.asks_for_tokens:
                await self._app(scope, receive, send)
                return
            scope[_BEHIND_WALL] = True
        await self._walled(scope, receive, send)


def _is_of_rollouts(path: str) -> bool:
    return path == ROOT or path.startswith(ROOT + "/")


def header_text(scope: Any, name: str) -> str | None:
    """The only value of a header, as UTF-8; None where it is not sent. Raises INVALID_ARGUMENT."""
    values = [value for key, value in scope["headers"] if key == name.encode()]
    if len(values) > 1:
        raise invalid(f"{name} is there {len(values)} times: send it once")
    try:
        return values[0].decode().strip() if values else None
    except UnicodeDecodeError:
        raise invalid(f"{name} is not UTF-8: write it again") from None


def _author_named(scope: Any) -> str:
    name = header_text(scope, AUTHOR_HEADER)
    if name is None:
        return LOCAL
    if not 1 <= len(name) <= MAX_AUTHOR_CHARACTERS or not name.isprintable():
        raise invalid(
            f"{AUTHOR_HEADER} must say who you are, in 1 to {MAX_AUTHOR_CHARACTERS} printable characters"
        )
    return name


def _stamp(file: Path | None) -> tuple[int, ...]:
    """What changes when the file does; empty while there is none."""
    try:
        found = os.stat(file) if file is not None else None
    except OSError:
        found = None
    return (found.st_mtime_ns, found.st_ino, found.st_size) if found else ()
