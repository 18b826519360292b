"""Rows that came with reads, and what was heard of changes: which of them a call may still use. Nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from featurecache.lookups.lookup_waiting import CORRUPT, Caching
from featurecache.lookups.near_cache import JITTER
from tests.sim.feature_looking import Copy, Looking

TINY_S = 1e-6
NEGATIVE_TTL_S = Caching(1.0).negative_ttl_s


class CopyBook:
    """All that came, numbered like everything else that happens; ``seq`` is such a number."""

    def __init__(self) -> None:
        self._copies: dict[bytes, list[Copy]] = {}
        self._invalidated: dict[bytes, int] = {}
        self._forgotten = 0

    def came(self, key: bytes, mark: bytes | None, sent_seq: int, seq: int, now_s: float) -> None:
        """A read brought this row; ``mark`` as it stands in a slot."""
        copies = self._copies.setdefault(key, [])
        copies.append(Copy(mark, sent_seq, seq, now_s))
        if len(copies) > 1 and copies[-2].mark == mark:
            del copies[-2]  # the newer one allows all that the older one does

    def told(self, keys: Sequence[bytes] | None, seq: int) -> None:
        """The store said that these changed; None: that any may have."""
        if keys is None:
            self._forgotten = seq
        else:
            self._invalidated |= dict.fromkeys(keys, seq)

    def begins(self, looking: Looking) -> None:
        """A call looks at what is there now."""
        looking.forgotten = self._forgotten
        looking.invalidated = {
            key: self._invalidated[key] for key in looking.keys if key in self._invalidated
        }

    def may_stand_in(self, key: bytes, row: bytes | None) -> bool:
        """Whether it came once and nobody said that it changed."""
        floor = self._invalidated.get(key, 0)
        return any(one.mark == row and one.done_seq > floor for one in self._copies.get(key, ()))

    def may_be_used(self, looking: Looking, slot: int, row: bytes | None) -> bool:
        """Whether it came while the call waited, or is a copy that is young enough."""
        return any(
            one.mark == row and self._is_young(looking, slot, one)
            for one in self._copies.get(looking.keys[slot], ())
        )

    @staticmethod
    def _is_young(looking: Looking, slot: int, copy: Copy) -> bool:
        if copy.done_seq > looking.asked_seq:
            return True
        ttl_s = looking.ttls_s[slot]
        if copy.mark is None or copy.mark == CORRUPT:
            ttl_s = min(ttl_s, 1.0) and NEGATIVE_TTL_S
        floor = looking.invalidated.get(looking.keys[slot], 0)
        return (
            looking.asked_s < copy.done_s + ttl_s * (1.0 + JITTER) + TINY_S
            and copy.done_seq > floor
            and copy.sent_seq > looking.forgotten
        )
