"""What was answered to changes that carry a key, so that one sent again happens once.

Decides what a repeated request gets: the first one's answer, the word that it is still being made, or a refusal when
the key came with another request before. Pure: ``now`` comes in, seconds of any clock that does not jump. What is kept
is bounded in number, bytes and time, and the oldest goes first; it must never be what a change's safety rests on, which
is the revision that it is meant for.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

MAX_KEYS = 4096
MAX_BYTES = 32 * 1024 * 1024
"""Of all answers together."""
KEPT_S = 600.0
"""Since the request came."""
MAX_KEY_CHARACTERS = 128

_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_CHARACTERS}}}", re.ASCII)


class Answer(msgspec.Struct, frozen=True):
    """What a request was answered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Fresh(msgspec.Struct, frozen=True):
    """Nobody asked this before: make it, then say ``finish`` if it has an answer, and ``abandon_unfinished``."""

    ticket: tuple[str, str]
    number: int
    """Of this attempt: an entry that went meanwhile, and came again, is another's."""


class Replay(msgspec.Struct, frozen=True):
    """It was answered before."""

    answer: Answer


class UnderWay(msgspec.Struct, frozen=True):
    """The same request is being made now; ``ticket`` is the first one's."""

    ticket: tuple[str, str]


class Mismatch(msgspec.Struct, frozen=True):
    """The key belongs to another request."""


class _Entry(msgspec.Struct):
    digest: bytes
    came_s: float
    number: int
    answer: Answer | None = None


class IdempotentAnswers:
    """What was answered, by caller and key."""

    def __init__(
        self, max_keys: int = MAX_KEYS, max_bytes: int = MAX_BYTES, kept_s: float = KEPT_S
    ) -> None:
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._kept_s = kept_s
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._bytes = 0
        self._number = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def kept_bytes(self) -> int:
        return self._bytes

    def begin(
        self, caller: str, key: str, digest: bytes, now: float
    ) -> Fresh | Replay | UnderWay | Mismatch:
        """A request came. ``digest``: of all that makes it the request that it is (``request_digest``)."""
        self._forget_old(now)
        ticket = (caller, key)
        entry = self._entries.get(ticket)
        if entry is None:
            self._number += 1
            self._entries[ticket] = _Entry(digest, now, self._number)
            self._forget_much()
            return Fresh(ticket, self._number)
        if entry.digest != digest:
            return Mismatch()
        return UnderWay(ticket) if entry.answer is None else Replay(entry.answer)

    def finish(self, fresh: Fresh, answer: Answer) -> None:
        """The request has this answer, and who sends it again gets it too."""
        entry = self._mine(fresh)
        if entry is None:
            return  # there were too many since
        assert entry.answer is None, "an answer is given once"
        entry.answer = answer
        self._bytes += _size(answer)
        self._forget_much()

    def abandon_unfinished(self, fresh: Fresh) -> None:
        """Unless it has an answer, the request came to nothing: who sends it again gets another try."""
        entry = self._mine(fresh)
        if entry is not None and entry.answer is None:
            del self._entries[fresh.ticket]

    def _mine(self, fresh: Fresh) -> _Entry | None:
        entry = self._entries.get(fresh.ticket)
        return entry if entry is not None and entry.number == fresh.number else None

    def _forget_old(self, now: float) -> None:
        while self._entries:
            first = next(iter(self._entries.values()))
            if now - first.came_s < self._kept_s:
                return
            self._forget_first()

    def _forget_much(self) -> None:
        while len(self._entries) > self._max_keys or self._bytes > self._max_bytes:
            self._forget_first()

    def _forget_first(self) -> None:
        _, entry = self._entries.popitem(last=False)
        if entry.answer is not None:
            self._bytes -= _size(entry.answer)


def key_fault(key: str) -> str:
    """What is wrong with an ``Idempotency-Key``; empty when nothing is."""
    if _KEY.fullmatch(key):
        return ""
    return (
        f"Idempotency-Key must have 1 to {MAX_KEY_CHARACTERS} visible ASCII characters and no spaces, "
        "such as a UUID of your own"
    )


def request_digest(parts: Iterable[bytes]) -> bytes:
    """Of the parts in their order; no two different sequences have the same."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.digest()


def _size(answer: Answer) -> int:
    return len(answer.body) + sum(len(name) + len(value) for name, value in answer.headers)
