"""API keys: what an entry of the keys file may say, and whose key was presented.

A key is ``hr_<id>_<secret>``; ``foundation/credentials.py`` makes, keeps and compares it. This module decides which
limits there are and which of them go together. It must never print, log or store a secret: it is handed out once, by
``new_key``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from foundation.credentials import (
    MAX_FILE_BYTES,
    AccessError,
    Credential,
    CredentialKind,
    CredentialRing,
)

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_KEYS",
    "AccessError",
    "ApiKey",
    "KeyRing",
    "add_key",
    "new_key",
    "read_keys",
    "remove_key",
]

PREFIX = "hr_"
MAX_KEYS = 1000
"""The file is read while calls are served, and every name is a label in the metrics."""

_FILE_HEAD = """\
# API keys of Headrace. Made by "headrace key create", taken away by "headrace key revoke"; both may be done while the
# gateway runs. It holds no secrets, only their hashes.
"""

ModelPattern = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.*?!\[\]-]{1,256}$")]


ViewPattern = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.*?!\[\]-]{1,256}$")]


class ApiKey(Credential, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry of the keys file. What is not given is not limited; only ``push`` has to be granted."""

    requests_per_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    burst_requests: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    max_concurrent_requests: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    models: tuple[ModelPattern, ...] = ()
    """Patterns with ``*``, ``?`` and ``[…]``; none means every model."""
    push: tuple[ViewPattern, ...] = ()
    """Patterns of feature views whose rows the holder may push; none means none."""


def _check(key: ApiKey) -> None:
    if key.burst_requests is not None and key.requests_per_s is None:
        raise AccessError(f"'{key.name}' has burst_requests without requests_per_s; give both")


_KEYS = CredentialKind(
    ApiKey,
    noun="key",
    prefix=PREFIX,
    max_entries=MAX_KEYS,
    how_to_make="headrace key create NAME",
    head=_FILE_HEAD,
    check=_check,
)


class KeyRing(CredentialRing[ApiKey]):
    """Tells whose key was presented."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        super().__init__(keys, PREFIX)


def new_key(
    name: str,
    *,
    now: datetime,
    requests_per_s: float | None = None,
    burst_requests: int | None = None,
    max_concurrent_requests: int | None = None,
    models: tuple[str, ...] = (),
    push: tuple[str, ...] = (),
    expires: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new entry, and the key itself, which is nowhere kept. Raises ``AccessError`` for what makes no sense."""

    def make(key_id: str, digest: str, created: datetime) -> ApiKey:
        return ApiKey(
            name=name,
            id=key_id,
            hash=digest,
            created=created,
            requests_per_s=requests_per_s,
            burst_requests=burst_requests,
            max_concurrent_requests=max_concurrent_requests,
            models=models,
            push=push,
            expires=expires,
        )

    return _KEYS.mint(make, now)


def read_keys(file: Path) -> list[ApiKey]:
    """All entries of the file; raises ``AccessError`` with what to change."""
    return _KEYS.read(file)


def add_key(file: Path, key: ApiKey) -> None:
    """Append the entry; a file that is not there is made, readable by its owner only."""
    _KEYS.add(file, key)


def remove_key(file: Path, name_or_id: str) -> ApiKey:
    """Take the entry out of the file and give it back. The rest of the file stays as it was written."""
    return _KEYS.remove(file, name_or_id)
