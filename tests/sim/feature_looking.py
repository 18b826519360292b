"""One lookup, and one row that came, as they are seen from outside. They decide nothing."""

from __future__ import annotations

from featurecache.lookups.lookup_waiting import Lookup
from featurecache.lookups.near_cache import ENTRY_OVERHEAD_BYTES, NearCache
from tests.sim.feature_judge import Verdict
from tests.sim.records import CallRecord


class Looking:
    """One lookup, as its caller sees it."""

    def __init__(self, record: CallRecord, keys: list[bytes], ttls: list[float]) -> None:
        self.record = record
        self.keys = keys
        self.ttls_s = ttls
        self.found: Lookup
        self.asked_s = 0.0
        self.asked_turn = 0
        self.asked_seq = 0
        self.deadline_s = 0.0
        self.was_open = False
        self.opened = 0
        self.at_once = False
        self.forgotten = 0
        self.invalidated: dict[bytes, int] = {}
        self.unsent: set[bytes] = set()
        self.settled = False
        self.verdict: Verdict | None = None


class Copy:
    """A row that came with a read; ``mark`` as it stands in a slot."""

    __slots__ = ("done_s", "done_seq", "mark", "sent_seq")

    def __init__(self, mark: bytes | None, sent_seq: int, done_seq: int, done_s: float) -> None:
        self.mark = mark
        self.sent_seq = sent_seq
        self.done_seq = done_seq
        self.done_s = done_s


def bytes_of(cache: NearCache) -> int:
    """What the copies of rows really take, counted anew."""
    return sum(
        len(one.key) + len(one.row or b"") + ENTRY_OVERHEAD_BYTES
        for one in cache.entries.values()
        if not one.negative
    )
