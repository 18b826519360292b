"""A keys file that a test fills, and the headers that its keys travel in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foundation.access import add_key, new_key
from tests.support.raw_http import post_infer, post_infer_chunked

HTTP_WAYS: dict[str, Callable[..., bytes]] = {"fast_lane": post_infer, "asgi": post_infer_chunked}


class Keys:
    """The keys file of a server."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._presented: dict[str, str] = {}

    def make(self, name: str, **limits: Any) -> None:
        """Add a key."""
        key, self._presented[name] = new_key(name, now=datetime.now(UTC), **limits)
        add_key(self.file, key)

    def __getitem__(self, name: str) -> str:
        return self._presented[name]

    def http(self, name: str) -> list[tuple[str, str]]:
        """For a request."""
        return [("authorization", f"Bearer {self[name]}")]

    def grpc(self, name: str) -> list[tuple[str, str]]:
        """For a call, by the other name."""
        return [("x-api-key", self[name])]
