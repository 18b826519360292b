"""The id of a prediction: a UUID of version 7 (RFC 9562), so that ids sort by time and never meet.

Pure: time and chance are handed in. It must never be taken for a secret, since most of it can be guessed.
"""

from __future__ import annotations

from collections.abc import Callable

PREFIX_BITS = 26
COUNTER_BITS = 48


class PredictionIds:
    """Makes ids; ``now_ns`` since 1970, ``random_bits(k)`` as ``random.getrandbits``.

    Within a millisecond ids count up from a random number (method 3 of section 6.2), so that most cost one format.
    """

    __slots__ = ("_counter", "_now_ns", "_prefix", "_prefix_ms", "_random_bits")

    def __init__(self, now_ns: Callable[[], int], random_bits: Callable[[int], int]) -> None:
        self._now_ns = now_ns
        self._random_bits = random_bits
        self._prefix_ms = -1
        self._prefix = ""
        self._counter = 0

    def new(self) -> str:
        """36 characters, as UUIDs are written."""
        now_ms = self._now_ns() // 1_000_000
        if now_ms != self._prefix_ms:
            self._begin(now_ms)
        self._counter = counter = self._counter + 1
        return f"{self._prefix}{counter:012x}"

    def _begin(self, now_ms: int) -> None:
        random = self._random_bits(PREFIX_BITS)
        digits = (
            f"{now_ms & 0xFFFF_FFFF_FFFF:012x}7{random >> 14:03x}{0x8000 | random & 0x3FFF:04x}"
        )
        self._prefix_ms = now_ms
        self._prefix = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:]}-"
        # One bit less, so that no millisecond has so many requests that the counter runs over.
        self._counter = self._random_bits(COUNTER_BITS - 1)
