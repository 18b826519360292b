"""The id of a prediction: a UUID of version 7 (RFC 9562), so that ids sort by time and never meet.

Pure: time and chance are handed in. It must never be taken for a secret, since most of it can be guessed.
"""

from __future__ import annotations

from collections.abc import Callable

STEM_BITS = 62
"""Of the 74 bits behind the time, those that chance gives and that many ids share."""
IDS_PER_STEM = 4096
_TAILS = [f"{number:03x}" for number in range(IDS_PER_STEM)]
_MS_NS = 1_000_000


class PredictionIds:
    """Makes ids; ``now_ns`` since 1970, ``random_bits(k)`` as ``random.getrandbits``.

    Behind the time stand a stem and a count, which goes on from one millisecond to the next (method 1 of section 6.2,
    with 12 bits), so that most ids cost no more than putting texts together. A stem that is used up counts up too
    while its millisecond lasts, and is drawn anew in the next.
    """

    __slots__ = (
        "_count",
        "_from_s",
        "_ms",
        "_now_ns",
        "_random_bits",
        "_start",
        "_stem",
        "_until_s",
    )

    def __init__(self, now_ns: Callable[[], int], random_bits: Callable[[int], int]) -> None:
        self._now_ns = now_ns
        self._random_bits = random_bits
        self._ms = -1
        self._from_s = self._until_s = 0.0
        self._stem = 0
        self._count = IDS_PER_STEM
        self._start = ""

    def new(self, now_s: float) -> str:
        """36 characters, as UUIDs are written.

        ``now_s`` on any clock that is steady: it says how long a look at the other one holds, since many requests have
        looked at a clock already.
        """
        count = self._count
        if count >= IDS_PER_STEM or not self._from_s <= now_s < self._until_s:
            count = self._begin(now_s)
        self._count = count + 1
        return self._start + _TAILS[count]

    def _begin(self, now_s: float) -> int:
        """Another millisecond, or a used-up stem."""
        now_ns = self._now_ns()
        now_ms, count = now_ns // _MS_NS, self._count
        if count >= IDS_PER_STEM:
            # One bit less, so that counting up within a millisecond never runs over.
            is_same_ms = now_ms == self._ms
            self._stem = self._stem + 1 if is_same_ms else self._random_bits(STEM_BITS - 1)
            count = 0
        self._ms = now_ms
        self._from_s, self._until_s = now_s, now_s + (_MS_NS - now_ns % _MS_NS) * 1e-9
        self._start = _written(now_ms, self._stem)
        return count


def _written(now_ms: int, stem: int) -> str:
    """All of an id but its last three digits."""
    time = f"{now_ms & 0xFFFF_FFFF_FFFF:012x}"
    random_a, random_b = stem >> 50, 0b10 << 50 | stem & (1 << 50) - 1
    high, low = random_b >> 36, random_b & (1 << 36) - 1
    return f"{time[:8]}-{time[8:]}-7{random_a:03x}-{high:04x}-{low:09x}"
