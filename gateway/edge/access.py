"""Who may ask on the data ports: holders of API keys.

Finds the holder of the key that a call presents, says what that holder may ask, and follows the keys file while the
gateway runs. Both fronts and both ways through HTTP ask here, so that they agree. No message, log line or metric may
contain a key; a caller whose key is not known learns nothing about models, paths or other keys.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from foundation.access import AccessError, ApiKey, KeyRing, read_keys
from gateway.core.quota import Quota, QuotaLimits
from gateway.errors import ErrorCode, HeadraceError
from gateway.ports import Clock
from gateway.settings import GatewaySettings

logger = logging.getLogger("headrace.access_keys")

HOW_TO_SEND = "'authorization: Bearer hr_…' or 'x-api-key: hr_…'"

FoundT = TypeVar("FoundT")


class KeyHolder:
    """One key as the fronts see it. It stays the same object while its entry keeps name and secret."""

    __slots__ = ("_allowed", "_key", "_names", "_pushed", "active", "name", "quota")

    def __init__(self, key: ApiKey, limits: QuotaLimits, now: float) -> None:
        self.name = key.name
        self.active = True
        self.quota = Quota(limits, now)
        self.change(key, limits, now)

    def change(self, key: ApiKey, limits: QuotaLimits, now: float) -> None:
        """The entry was written anew: other models, limits or expiry."""
        self._key = key
        self._names = ", ".join(key.models)
        self._allowed = _any_of(key.models)
        self._pushed = _any_of(key.push)
        self.quota.change(limits, now)

    @property
    def key(self) -> ApiKey:
        """The entry of the keys file."""
        return self._key

    @property
    def is_limited_to_models(self) -> bool:
        """Whether there are models that this holder may not ask."""
        return self._allowed is not None

    def allow(self, model: str) -> None:
        """Raises PERMISSION_DENIED for a model that the key is not for, whether it exists or not."""
        if self._allowed is not None and self._allowed.fullmatch(model) is None:
            raise HeadraceError(
                ErrorCode.PERMISSION_DENIED,
                f"the key '{self.name}' is only for models {self._names}",
            )

    def allow_push(self, view: str) -> None:
        """Raises PERMISSION_DENIED for a feature view that was not granted to the key, whether it exists or not."""
        if self._pushed is None or self._pushed.fullmatch(view) is None:
            granted = ", ".join(self._key.push) or "none"
            raise HeadraceError(
                ErrorCode.PERMISSION_DENIED,
                f"the key '{self.name}' may not push rows of feature view '{view[:80]}' (granted: {granted}); "
                "ask for a key made with --push",
            )

    def guard(self, find: Callable[[str, str], FoundT]) -> Callable[[str, str], FoundT]:
        """``find`` for the models that this holder may ask."""
        if self._allowed is None:
            return find

        def find_allowed(model: str, version: str) -> FoundT:
            self.allow(model)
            return find(model, version)

        return find_allowed

    def check(self) -> None:
        """Raises UNAUTHENTICATED when the key has expired or was revoked since it was found."""
        if not self.active:
            raise HeadraceError(
                ErrorCode.UNAUTHENTICATED,
                f"the key '{self.name}' has expired or was revoked; ask for a new one",
            )

    def enter(self, now: float) -> Quota:
        """Count one infer call in, or raise QUOTA_EXCEEDED; whoever got the quota owes it one ``leave``."""
        self.check()
        quota = self.quota
        refusal = quota.enter(now)
        if refusal is not None:
            raise HeadraceError(
                ErrorCode.QUOTA_EXCEEDED,
                f"the key '{self.name}' is over its quota of {refusal.reason}; try again later",
                retry_after_s=refusal.retry_after_s,
            )
        return quota


class Access:
    """The holders of all keys. Made once from a file that must be good; a later file that is not changes nothing."""

    def __init__(
        self,
        file: Path,
        *,
        workers: int = 1,
        clock: Clock = time.monotonic,
        utc_clock: Clock = time.time,
    ) -> None:
        self.on_change: Callable[[], None] = _nothing
        """Called after the keys changed: whoever remembers holders forgets them."""
        self._file = file
        self._workers = workers
        self._clock = clock
        self._utc_clock = utc_clock
        self._holders: dict[str, KeyHolder] = {}
        self._found: dict[bytes, KeyHolder] = {}
        self._ring = KeyRing([])
        self._reading: asyncio.Future[list[ApiKey]] | None = None
        self._seen = _stamp(file)
        self.use(read_keys(file))

    # -- calls ------------------------------------------------------------------------------------

    def holder(self, headers: Mapping[bytes, bytes]) -> KeyHolder:
        """The holder of the key in a call's headers (names in lower case); raises UNAUTHENTICATED.

        A key that was found before is looked up whole. Python's hashes of bytes are salted, so that the look-up
        tells nothing about keys that almost fit; what it does not know goes through the ring, which takes its time.
        """
        presented = _presented(headers)
        if presented is None:
            raise HeadraceError(
                ErrorCode.UNAUTHENTICATED, f"this server asks for an API key: send {HOW_TO_SEND}"
            )
        holder = self._found.get(presented)
        if holder is None:
            key = self._ring.find(presented)
            if key is None:
                raise HeadraceError(
                    ErrorCode.UNAUTHENTICATED,
                    f"the API key is not known here; send {HOW_TO_SEND} with a key that is in force",
                )
            holder = self._found[presented] = self._holders[key.id]  # one for each key at most
        holder.check()
        return holder

    def plain_holder(self, headers: list[tuple[bytes, bytes]], model: str) -> KeyHolder | None:
        """The holder when it may ask the model; None when the call has to be refused by those who word refusals."""
        try:
            holder = self.holder(dict(headers))
            holder.allow(model)
        except HeadraceError:
            return None
        return holder

    # -- the keys file ----------------------------------------------------------------------------

    def use(self, keys: list[ApiKey]) -> None:
        """These keys are in force from now on. Who is inside stays inside, and counted."""
        now = self._clock()
        before, self._holders = self._holders, {}
        for key in keys:
            limits = QuotaLimits(
                key.requests_per_s, key.burst_requests, key.max_concurrent_requests
            ).share(self._workers)
            holder = before.get(key.id)
            if holder is not None and (holder.key.name, holder.key.hash) == (key.name, key.hash):
                holder.change(key, limits, now)
                del before[key.id]
            else:
                holder = KeyHolder(key, limits, now)
            self._holders[key.id] = holder
        for holder in before.values():
            holder.active = False
        self._ring = KeyRing(keys)
        self._found = {}
        self._expire()
        self.on_change()

    def sweep(self) -> None:
        """Called about once a second, on the loop: keys expire, and a changed file is read on a thread."""
        self._expire()
        if self._reading is not None:
            return
        stamp = _stamp(self._file)
        if stamp != self._seen:
            self._seen = stamp
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(None, read_keys, self._file)
            self._reading.add_done_callback(self._on_read)

    def _on_read(self, reading: asyncio.Future[list[ApiKey]]) -> None:
        self._reading = None
        if reading.cancelled():
            return
        error = reading.exception()
        if error is None:
            self.use(reading.result())
            logger.info("the API keys were read again", extra={"keys": len(self._holders)})
        elif isinstance(error, AccessError):
            logger.error("the keys file cannot be used, the keys before stay in force: %s", error)
        else:
            logger.error("the keys file could not be read; the keys before stay", exc_info=error)

    def _expire(self) -> None:
        now = self._utc_clock()
        for holder in self._holders.values():
            expires = holder.key.expires
            holder.active = expires is None or now < expires.timestamp()

    def snapshot(self) -> list[dict[str, Any]]:
        """For ``/status``: who has keys, and how many calls of theirs are inside. No hashes."""
        return [
            {
                "name": holder.name,
                "id": key_id,
                "active": holder.active,
                "calls_inside": holder.quota.inside,
            }
            for key_id, holder in self._holders.items()
        ]


def open_access(settings: GatewaySettings) -> Access | None:
    """What the settings ask for; None when everybody may ask. Raises ``AccessError`` for an unusable keys file."""
    file = settings.access.api_keys_file
    return Access(Path(file), workers=settings.server.workers) if file else None


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    """What fits one of the patterns; None when there is none."""
    return re.compile("|".join(map(fnmatch.translate, patterns))) if patterns else None


def _nothing() -> None:
    return None


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when the file does; empty while there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _presented(headers: Mapping[bytes, bytes]) -> bytes | None:
    authorization = headers.get(b"authorization", b"")
    if authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip()
    value = headers.get(b"x-api-key")
    return None if value is None else value.strip()
