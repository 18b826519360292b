"""The store of this process: the server that the settings name, or a private one that is started when none runs.

Decides which of the two it is. What a private one does is in ``foundation.private_store``. Nothing here keeps a
connection: whoever wants one takes ``url``, and must bear that the server behind it is away for a moment.
"""

from __future__ import annotations

from types import TracebackType
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from foundation.private_store import PrivateServer
from foundation.store_folder import StoreError, StoreFolder
from foundation.store_url import StoreUrlError, parse_store_url, without_password

__all__ = ["Store", "StoreError", "StoreSettings", "open_store"]


class StoreSettings(msgspec.Struct, frozen=True):
    """Where rows, plans and streams are kept."""

    redis_url: str = ""
    """A Redis or Valkey server: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://; empty: a private
    server is started when none runs yet, and ended by the last process that uses it."""
    state_dir: str = ".headrace"
    """Folder of the private server's data, on a local disk. Processes with the same folder share the server."""
    max_memory_bytes: Annotated[int, Meta(ge=16 * 1024 * 1024)] = 2 * 1024**3
    """What the private server may hold; it refuses further writes."""
    start_timeout_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    """How long the private server may take until it answers at all …"""
    load_timeout_s: Annotated[float, Meta(ge=0.1, le=86400)] = 600.0
    """… and from then on to read its data back."""
    stop_timeout_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    """How long the private server may take to shut down before it gets SIGTERM, and again before SIGKILL."""


class _Server(Protocol):
    @property
    def url(self) -> str: ...
    @property
    def trouble(self) -> str: ...
    def tend(self, now_s: float) -> None: ...
    def close(self) -> None: ...


class Store:
    """A store that is in use by this process until ``close``. Made by ``open_store``."""

    def __init__(self, server: _Server, *, is_private: bool) -> None:
        self._server = server
        self.is_private = is_private
        """Whether the server is of this machine and is started and ended as processes come and go."""

    @property
    def url(self) -> str:
        """Where to connect, for redis-py and for our own connection. May hold a password: log ``name``.

        A private store's may change when its server was started again and the state folder's path is too long for a
        socket: ask again before each connect.
        """
        return self._server.url

    @property
    def name(self) -> str:
        """The address without passwords."""
        return without_password(self.url)

    @property
    def trouble(self) -> str:
        """Why a private server is away and does not come back; empty as long as nothing is known of that."""
        return self._server.trouble

    def tend(self, now_s: float) -> None:
        """To be called about once a second by a process that stays; ``now_s`` is monotonic.

        Notices that the private server is gone, whoever had started it, and starts one on the same data. It never
        waits: a look takes some microseconds, a start is made in a thread. For a server of the settings: nothing.
        """
        self._server.tend(now_s)

    def close(self) -> None:
        """Use it no more; a private server that nobody else uses is shut down, its data on the disk.

        Waits for that, at most about ``2 × stop_timeout_s``: from a coroutine call it in a thread. Raises
        ``StoreError`` when the server cannot be ended. Again is fine.
        """
        self._server.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except StoreError as late:
            if error is None:
                raise
            error.add_note(str(late))  # what happened first is what the reader must see


class _NamedServer:
    """A server that others look after."""

    trouble = ""

    def __init__(self, url: str) -> None:
        self.url = url

    def tend(self, now_s: float) -> None: ...

    def close(self) -> None: ...


def open_store(settings: StoreSettings, *, wait_for_data: bool = True) -> Store:
    """The store of the settings. One with a ``redis_url`` is not asked here whether it is there.

    A private one answers when this returns; without ``wait_for_data`` it may still be reading its data back, and tells
    so to whoever asks. This waits, at most ``start_timeout_s`` and ``load_timeout_s`` (and for a server that is just
    being ended): from a coroutine call it in a thread. Raises ``StoreError`` with what to do.
    """
    if settings.redis_url:
        try:
            parse_store_url(settings.redis_url)
        except StoreUrlError as error:
            raise StoreError(f"[store] redis_url: {error}") from None
        return Store(_NamedServer(settings.redis_url), is_private=False)
    server = PrivateServer(
        StoreFolder(settings.state_dir),
        max_memory_bytes=settings.max_memory_bytes,
        start_timeout_s=settings.start_timeout_s,
        stop_timeout_s=settings.stop_timeout_s,
    )
    server.open(settings.load_timeout_s if wait_for_data else None)
    return Store(server, is_private=True)
