"""A few plain commands on single keys, for what people look at and for loaders' own marks.

Decides which node of a cluster is asked. It must never be used for many rows: ``writing.py`` and ``lookup.py`` are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import MovedError, RedisError

from featurecache.errors import SourceError
from featurecache.sources.cluster_slots import slot_of
from featurecache.sources.dialing import Address
from featurecache.writing.store_client import StoreClients, may_pass, source_error
from featurecache.writing.writing import slot_table

RETRY_AFTER_S = 0.1
MAX_TRIES = 3


class StoreKeys:
    """Single keys of the store. All raise ``SourceError``, after ``patience_s`` for what may pass by itself."""

    def __init__(self, clients: StoreClients, *, patience_s: float = 0.0) -> None:
        self._clients = clients
        self._patience_s = patience_s
        self._owners: list[Address | None] = []

    def get(self, key: bytes) -> bytes | None:
        """The value; None when there is none, or it is no string."""
        try:
            value = self._ask(key, b"GET", key)
        except SourceError as error:
            if "WRONGTYPE" in str(error):
                return None
            raise
        return value if isinstance(value, bytes) else None

    def get_all(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, at most some hundred; a cluster is asked one by one."""
        if self._clients.is_cluster or not keys:
            return [self.get(key) for key in keys]
        found: list[bytes | None] = self._ask(keys[0], b"MGET", *keys)
        return found

    def put(self, key: bytes, value: bytes, keep_s: int) -> None:
        """Kept for a while."""
        self._ask(key, b"SET", key, value, b"EX", b"%d" % keep_s)

    def delete(self, key: bytes) -> None:
        """Whether or not it is there."""
        self._ask(key, b"DEL", key)

    def left_ms(self, key: bytes) -> int | None:
        """Until the store forgets it; None: never, or it is not there."""
        left = int(self._ask(key, b"PTTL", key))
        return left if left >= 0 else None

    def _ask(self, key: bytes, *words: bytes) -> Any:
        give_up_s = time.monotonic() + self._patience_s
        moves = 0
        while True:
            try:
                return self._client(key).execute_command(*words)
            except MovedError as error:
                self._owners = []
                moves += 1
                if moves == MAX_TRIES or not self._clients.is_cluster:
                    raise source_error(error, self._clients.name) from error
            except RedisError as error:
                # Each of these commands may be sent again, whether or not it was done.
                if not may_pass(error) or time.monotonic() + RETRY_AFTER_S > give_up_s:
                    raise source_error(error, self._clients.name) from error
                time.sleep(RETRY_AFTER_S)

    def _client(self, key: bytes) -> Any:
        if not self._clients.is_cluster:
            return self._clients.server()
        if not self._owners:
            self._owners = slot_table(self._clients)
        owner = self._owners[slot_of(key)]
        if owner is None:
            raise SourceError(
                f"{self._clients.name}: no node of the cluster has the slot of {key!r}"
            )
        return self._clients.node(owner)
