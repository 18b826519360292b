"""The shapes of what lookups need from others. Only signatures.

``opening.py`` decides which concrete source an address means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from featurecache.errors import SourceError

Clock: TypeAlias = Callable[[], float]
"""Seconds, monotonic."""

FetchDone: TypeAlias = Callable[[Sequence[bytes | None] | None, SourceError | None], None]
"""Told the values in the order of the keys, None for a key that is not there; or why there are none."""


class Timer(Protocol):
    """What ``call_at`` gives back."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """What is needed of an event loop; the simulator's has it too."""

    def call_soon(self, callback: Callable[[], None], /) -> object: ...
    def call_at(self, when: float, callback: Callable[[], None], /) -> Timer: ...


class Invalidated(Protocol):
    """Who keeps copies of what a source gave."""

    def __call__(self, keys: Sequence[bytes] | None, /) -> None:
        """These keys changed; None: any may have, forget everything that was tracked."""
        ...


class RowSource(Protocol):
    """Where packed rows come from: one server, a cluster, memory.

    It never blocks and never raises out of ``fetch``. It reconnects by itself for as long as it is open.
    """

    on_invalidated: Invalidated | None
    """Called, while the source tracks, in the order in which the server said so: never before the answer of an
    earlier ``fetch`` was given."""

    @property
    def tracks(self) -> bool:
        """Whether ``on_invalidated`` can be relied on now; without it copies live by their time alone."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether a fetch would be sent now."""
        ...

    @property
    def name(self) -> str:
        """For logs and errors, without passwords."""
        ...

    async def start(self) -> None:
        """Begin to connect; returns after the first try, whether it succeeded or not."""
        ...

    def fetch(self, keys: Sequence[bytes], done: FetchDone, *, track: bool) -> None:
        """Ask for the rows of ``keys`` (at most 500, all different) and call ``done`` exactly once, never from inside
        this call, at the latest after the source's own read timeout. ``track``: copies of them will be kept.
        """
        ...

    async def close(self) -> None:
        """Let go of every connection; fetches still waiting get their error."""
        ...
