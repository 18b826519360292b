"""Rows from one Redis-like server (Redis, Valkey, and what speaks like them), wherever it is now.

Decides how a fetch is worded: one ``MGET``, announced as tracked if copies will be kept. It must never read a refusal,
or a reply of another shape, as "no such row".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from featurecache.errors import SourceError
from featurecache.sources.linked_source import LinkedSource
from featurecache.sources.ports import FetchDone, Invalidated
from featurecache.sources.resp import CACHING_YES, Replies, ReplyError, pack_mget


class RedisSource(LinkedSource):
    """Fills ``RowSource`` over one connection."""

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

    def fetch(self, keys: Sequence[bytes], done: FetchDone, *, track: bool) -> None:
        """One ``MGET``; see ``RowSource``. Without a connection it fails in the next turn of the loop."""
        link = self._link
        if not self._may_fetch(keys, done):
            return
        if track and link.tracks:
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
