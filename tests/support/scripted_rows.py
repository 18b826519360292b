"""A store of rows on invented time, with one connection to it, for tests of lookups.

It does to the word what ``RowSource`` promises: values are read at the server half way, answers and invalidations
come back in the order in which the server said them, ``done`` is called once and later. What goes wrong is asked for:
``mode`` and ``latency_s`` apply to fetches from then on.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from enum import Enum

from featurecache.errors import SourceError
from featurecache.sources.ports import FetchDone, Invalidated
from tests.sim.virtual_loop import VirtualLoop


class Mode(Enum):
    WELL = "well"
    REFUSES = "refuses"
    SILENT = "silent"  # until the read timeout
    GARBLED = "garbled"


def make_row(key: bytes, version: int) -> bytes:
    """A sound row that says whose it is and which."""
    body = struct.pack("<BBHIqq", 1, 4, 24, 7, version, version) + struct.pack("<I", len(key)) + key
    body += bytes(-(len(body) + 4) % 8)
    return body + zlib.crc32(body).to_bytes(4, "little")


def read_row(row: bytes) -> tuple[bytes, int]:
    """Whose row it is, and which version."""
    (length,) = struct.unpack_from("<I", row, 24)
    return row[28 : 28 + length], struct.unpack_from("<q", row, 8)[0]


class ScriptedRows:
    """``fetches`` is what was asked for: keys, whether tracked, and in which turn of the loop."""

    def __init__(
        self, loop: VirtualLoop, *, latency_s: float = 0.4e-3, timeout_s: float = 0.1
    ) -> None:
        self.on_invalidated: Invalidated | None = None
        self.loop = loop
        self.latency_s = latency_s
        self.timeout_s = timeout_s
        self.mode = Mode.WELL
        self.tracks = True
        self.is_up = True
        self.name = "scripted"
        self.versions: dict[bytes, int] = {}
        self.gone: set[bytes] = set()
        self.garbled: set[bytes] = set()
        self.fetches: list[tuple[tuple[bytes, ...], bool, int]] = []
        self.in_flight: set[bytes] = set()
        self.reads_in_flight = 0
        self.tracked: set[bytes] = set()
        self.complaints: list[str] = []
        self.errors_in_a_row = 0
        self.answered_sent_s: dict[bytes, float] = {}
        """When the fetch was sent that answered for a key last."""
        self.floor: dict[bytes, int] = {}
        """The version that an invalidation of the key told of, once it was delivered."""
        self.forgotten_s = -1.0
        self._last_delivery_s = 0.0

    async def start(self) -> None:
        """Always connected."""

    async def close(self) -> None:
        """Nothing to let go of."""

    def fetch(self, keys: Sequence[bytes], done: FetchDone, *, track: bool) -> None:
        self.fetches.append((tuple(keys), track, self.loop.turn))
        if not 0 < len(keys) <= 500 or len(set(keys)) != len(keys):
            self.complaints.append(f"a fetch of {len(keys)} keys, {len(set(keys))} different")
        twice = self.in_flight.intersection(keys)
        if twice:
            self.complaints.append(f"{len(twice)} keys were fetched twice at the same time")
        self.in_flight.update(keys)
        self.reads_in_flight += 1
        fetch = _Fetch(self, tuple(keys), done, track)
        now_s = self.loop.now_s
        if self.mode is Mode.REFUSES:
            self.loop.call_at(now_s + self.latency_s, lambda: fetch.end(None, "refused"))
            return
        self.loop.call_at(now_s + self.timeout_s, lambda: fetch.end(None, "timed out"))
        if self.mode is not Mode.SILENT:
            garble = self.mode is Mode.GARBLED
            latency_s = self.latency_s
            self.loop.call_at(now_s + latency_s / 2, lambda: fetch.read(latency_s / 2, garble))

    def write(self, key: bytes, *, gone: bool = False) -> None:
        """The next version of a row, or it is there no longer."""
        self.versions[key] = self.versions.get(key, 0) + 1
        (self.gone.add if gone else self.gone.discard)(key)
        if key in self.tracked:
            self.tracked.discard(key)
            told = self.versions[key]
            self.deliver(self.latency_s / 2, lambda: self._invalidate(key, told))

    def forget(self) -> None:
        """The connection broke and came back, with fetches on another way: anything may have changed."""
        self.tracked.clear()
        self.forgotten_s = self.loop.now_s
        assert self.on_invalidated is not None
        self.on_invalidated(None)

    def deliver(self, in_s: float, what: Callable[[], None]) -> None:
        """One connection: in the order in which it was said."""
        self._last_delivery_s = max(self._last_delivery_s, self.loop.now_s + in_s)
        self.loop.call_at(self._last_delivery_s, what)

    def _invalidate(self, key: bytes, told: int) -> None:
        self.floor[key] = told
        assert self.on_invalidated is not None
        self.on_invalidated([key])


class _Fetch:
    """One fetch: ends once."""

    def __init__(
        self, source: ScriptedRows, keys: tuple[bytes, ...], done: FetchDone, track: bool
    ) -> None:
        self.source = source
        self.keys = keys
        self.done = done
        self.track = track
        self.sent_s = source.loop.now_s
        self.ended = False

    def read(self, way_back_s: float, garble: bool) -> None:
        source = self.source
        rows: list[bytes | None] = []
        for key in self.keys:
            version = None if key in source.gone else source.versions.get(key)
            row = None if version is None else make_row(key, version)
            if row is not None and (garble or key in source.garbled):
                row = row[:-5] + bytes([row[-5] ^ 1]) + row[-4:]
            rows.append(row)
        if self.track:
            source.tracked.update(self.keys)
        source.deliver(way_back_s, lambda: self.end(rows, ""))

    def end(self, rows: list[bytes | None] | None, error: str) -> None:
        if self.ended:
            return
        self.ended = True
        source = self.source
        source.in_flight.difference_update(self.keys)
        source.reads_in_flight -= 1
        if rows is None:
            source.errors_in_a_row += 1
            self.done(None, SourceError(error))
            return
        source.errors_in_a_row = 0
        source.answered_sent_s.update(dict.fromkeys(self.keys, self.sent_s))
        self.done(rows, None)
