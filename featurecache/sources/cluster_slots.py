"""Which slot a key lies in, and which node of a cluster has the slot.

Pure: slots from keys, tables from replies. It must never guess an owner for a slot that the cluster did not name.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Any

import msgspec

from featurecache.errors import SourceError
from featurecache.sources.dialing import Address

SLOTS = 16384


class Redirect(msgspec.Struct, frozen=True):
    """``MOVED`` (for good) or ``ASK`` (this once): the slot is at another node."""

    slot: int
    address: Address
    for_good: bool


def slot_of(key: bytes) -> int:
    """Of a key: only what stands in its first braces counts, if anything does."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def slot_owners(reply: Any, asked: Address) -> list[Address | None]:
    """The master of each slot, from the reply to ``CLUSTER SLOTS``; a node without a host is the one ``asked``.

    Raises:
        SourceError: The reply is something else.
    """
    owners: list[Address | None] = [None] * SLOTS
    try:
        for first, last, master, *_replicas in reply:
            host = (master[0] or b"").decode()
            address = Address(host if host not in ("", "?") else asked.host, int(master[1]))
            if not 0 <= first <= last < SLOTS:
                raise ValueError(f"slots {first} to {last}")
            owners[first : last + 1] = [address] * (last - first + 1)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise SourceError(f"{asked}: no table of slots in {str(reply)[:200]!r}: {error}") from None
    return owners


def redirect_of(refusal: str, asked: Address) -> Redirect | None:
    """What ``MOVED 3999 127.0.0.1:6381`` or ``ASK …`` says; None for any other refusal."""
    words = refusal.split()
    if len(words) < 3 or words[0] not in ("MOVED", "ASK"):
        return None
    host, _, port = words[2].rpartition(":")
    if not words[1].isdigit() or not port.isdigit():
        return None
    address = Address(host.strip("[]") or asked.host, int(port))
    return Redirect(int(words[1]) % SLOTS, address, words[0] == "MOVED")
