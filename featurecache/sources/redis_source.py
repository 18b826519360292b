"""Rows from one Redis-like server (Redis, Valkey, and what speaks like them), wherever it is now.

Decides how a fetch is worded: one ``MGET``, announced as tracked if copies will be kept. It must never read a refusal,
or a reply of another shape, as "no such row".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from featurecache.errors import SourceError
from featurecache.sources.dialing import Address, Login
from featurecache.sources.node_link import FindAddress, NodeLink, always
from featurecache.sources.ports import FetchDone, Invalidated
from featurecache.sources.resp import CACHING_YES, Replies, ReplyError, pack_mget
from featurecache.sources.source_limits import MAX_KEYS_OF_A_FETCH, SourceLimits


class RedisSource:
    """Fills ``RowSource`` over one connection. ``where``: an address, or what finds it before each connection."""

    def __init__(
        self,
        where: Address | FindAddress,
        login: Login,
        limits: SourceLimits,
        *,
        name: str = "",
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        find = always(where) if isinstance(where, Address) else where
        self._link = NodeLink(find, login, limits, name or str(where), random_unit)

    @property
    def on_invalidated(self) -> Invalidated | None:
        """See ``RowSource``."""
        return self._link.on_invalidated

    @on_invalidated.setter
    def on_invalidated(self, told: Invalidated | None) -> None:
        self._link.on_invalidated = told

    @property
    def tracks(self) -> bool:
        """Whether the server tells now which tracked keys change."""
        return self._link.tracks

    @property
    def is_up(self) -> bool:
        """Whether a fetch would be sent now."""
        return self._link.is_up

    @property
    def name(self) -> str:
        """The address without passwords."""
        return self._link.name

    async def start(self) -> None:
        """Begin to connect; returns after the first try, whether it succeeded or not."""
        await self._link.start()

    async def close(self) -> None:
        """Let go of the connection; fetches still waiting get their error."""
        await self._link.close()

    def fetch(self, keys: Sequence[bytes], done: FetchDone, *, track: bool) -> None:
        """One ``MGET``; see ``RowSource``. Without a connection it fails in the next turn of the loop."""
        link = self._link
        if not 0 < len(keys) <= MAX_KEYS_OF_A_FETCH:
            sentence = f"{link.name}: a fetch has 1 to {MAX_KEYS_OF_A_FETCH} keys, not {len(keys)}"
            link.refuse(done, SourceError(sentence))
        elif track and link.tracks:
            told = partial(self._answered, done, len(keys))
            link.submit(CACHING_YES + pack_mget(keys), 2, told)
        else:
            link.submit(pack_mget(keys), 1, partial(self._answered, done, len(keys)))

    def _answered(
        self, done: FetchDone, count: int, replies: Replies | None, error: SourceError | None
    ) -> None:
        if replies is None:
            done(None, error)
            return
        values = replies[-1]
        if type(values) is list and len(values) == count:
            done(values, None)
        else:
            done(None, SourceError(f"{self._link.name}: {refusal_of(values, count)}"))
        if len(replies) == 2 and replies[0] != b"OK":
            self._link.distrust_tracking()


def refusal_of(reply: Any, count: int) -> str:
    """A sentence about a reply to ``MGET`` that is not ``count`` values."""
    if isinstance(reply, ReplyError):
        return f"the server refused the read: {reply}"
    return f"the server answered the read of {count} keys with something else"
