"""How long and how much a row source may wait, keep and retry.

Decides the numbers only; every one has its unit in its name, and none means "for ever".
"""

from __future__ import annotations

import msgspec

MAX_KEYS_OF_A_FETCH = 500


class SourceLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one connection to one server; a cluster has as many as it has nodes."""

    connect_timeout_s: float = 0.1
    """To resolve the name, open the socket and shake hands over TLS."""
    read_timeout_s: float = 1.0
    """For one reply; a connection whose oldest reply is later is closed as dead."""
    heartbeat_s: float = 1.0
    """An idle connection is pinged this often, so that a dead one is noticed before it serves old copies."""
    backoff_min_s: float = 0.05
    backoff_max_s: float = 1.0
    """The pause before connecting again doubles from the one to the other, and varies by half."""
    max_waiting_fetches: int = 1024
    max_unsent_bytes: int = 8 * 1024 * 1024
    """What may lie in the write buffer before fetches are refused."""
    max_reply_bytes: int = 256 * 1024 * 1024
    """A reply that does not end before this is refused together with its connection."""
    topology_refresh_s: float = 10.0
    """Of a cluster; it is asked sooner when a node is gone or a slot has moved."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if not 0 < value < float("inf"):
                raise ValueError(f"{field} must be a positive number, not {value!r}")
        if self.backoff_max_s < self.backoff_min_s:
            raise ValueError("backoff_max_s must not be less than backoff_min_s")
