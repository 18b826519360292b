"""API keys: how they are made, kept in a file, and recognised.

A key is ``hr_<id>_<secret>``. The file keeps the id in the clear and a SHA-256 of the secret. A slow hash is for what
people choose; the secret is 32 bytes of the system's randomness, which nobody can try through, and a slow hash would
only let strangers buy our CPU time with wrong keys. This module must never print, log or store a secret: it is handed
out once, by ``new_key``.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

PREFIX = "hr_"
SECRET_BYTES = 32
ID_BYTES = 6
MAX_KEYS = 1000
"""The file is read while calls are served, and every name is a label in the metrics."""
MAX_FILE_BYTES = 1024 * 1024

_HASH_PREFIX = "sha256:"
_TABLE = re.compile(r"^[ \t]*\[")
_KEY_TABLE = re.compile(r"^[ \t]*\[\[[ \t]*key[ \t]*\]\]")
_FILE_HEAD = """\
# API keys of Headrace. Made by "headrace key create", taken away by "headrace key revoke"; both may be done while the
# gateway runs. It holds no secrets, only their hashes.
"""

ModelPattern = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.*?!\[\]-]{1,256}$")]


ViewPattern = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.*?!\[\]-]{1,256}$")]


class AccessError(Exception):
    """A keys file or a wish that cannot be used; the message is for the operator and names no secret."""


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry of the keys file. What is not given is not limited; only ``push`` has to be granted."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    """For people, logs and metrics."""
    id: Annotated[str, Meta(pattern=r"^[a-z0-9]{4,32}$")]
    hash: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
    """Of the secret alone."""
    created: Annotated[datetime, Meta(tz=True)] | None = None
    requests_per_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    burst_requests: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    max_concurrent_requests: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    models: tuple[ModelPattern, ...] = ()
    """Patterns with ``*``, ``?`` and ``[…]``; none means every model."""
    push: tuple[ViewPattern, ...] = ()
    """Patterns of feature views whose rows the holder may push; none means none."""
    expires: Annotated[datetime, Meta(tz=True)] | None = None


class _KeysFile(msgspec.Struct, forbid_unknown_fields=True):
    key: Annotated[list[ApiKey], Meta(max_length=MAX_KEYS)] = []


class KeyRing:
    """Tells whose key was presented."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.id.encode(): key for key in keys}
        self._digests = {
            key_id: bytes.fromhex(key.hash.removeprefix(_HASH_PREFIX))
            for key_id, key in self._keys.items()
        }
        self._nobodys_digest = secrets.token_bytes(hashlib.sha256().digest_size)

    def find(self, presented: bytes) -> ApiKey | None:
        """The entry that the key belongs to; None for any other bytes.

        Every answer takes the same steps: an unknown id is compared with a digest that no secret has, so that time
        tells neither whether an id exists nor how much of a secret was right.
        """
        key_id, _, secret = presented.removeprefix(PREFIX.encode()).partition(b"_")
        is_right = hmac.compare_digest(
            hashlib.sha256(secret).digest(), self._digests.get(key_id, self._nobodys_digest)
        )
        key = self._keys.get(key_id)
        return key if is_right and presented.startswith(PREFIX.encode()) else None


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
    secret = secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(
        name=name,
        id=secrets.token_hex(ID_BYTES),
        hash=_HASH_PREFIX + hashlib.sha256(secret.encode()).hexdigest(),
        created=now.astimezone(UTC).replace(microsecond=0),
        requests_per_s=requests_per_s,
        burst_requests=burst_requests,
        max_concurrent_requests=max_concurrent_requests,
        models=models,
        push=push,
        expires=expires,
    )
    try:
        key = msgspec.convert(msgspec.to_builtins(key), ApiKey)
    except msgspec.ValidationError as error:
        raise AccessError(f"not a usable key: {error}") from None
    _check(key)
    if expires is not None and expires <= now:
        raise AccessError(f"'{name}' would have expired already, at {_time(expires)}")
    return key, f"{PREFIX}{key.id}_{secret}"


def read_keys(file: Path) -> list[ApiKey]:
    """All entries of the file; raises ``AccessError`` with what to change."""
    return _parse(file, _read(file))


def add_key(file: Path, key: ApiKey) -> None:
    """Append the entry; a file that is not there is made, readable by its owner only."""
    with _locked(file):
        text = _read(file) if file.exists() else _FILE_HEAD
        keys = _parse(file, text)
        for other in keys:
            if other.name == key.name:
                raise AccessError(
                    f"{file}: there is a key named '{key.name}' already (id {other.id}); "
                    "revoke it or take another name"
                )
        if text and not text.endswith("\n"):
            text += "\n"
        text += "\n" + _table(key)
        if _parse(file, text) != [*keys, key]:
            raise AccessError(f"{file}: a table after the keys is in the way; move the keys last")
        _replace(file, text)


def remove_key(file: Path, name_or_id: str) -> ApiKey:
    """Take the entry out of the file and give it back. The rest of the file stays as it was written."""
    with _locked(file):
        text = _read(file)
        keys = _parse(file, text)
        found = [at for at, key in enumerate(keys) if name_or_id in (key.name, key.id)]
        if not found:
            known = ", ".join(key.name for key in keys) or "none"
            raise AccessError(
                f"{file}: no key has the name or id '{name_or_id}'; there are: {known}"
            )
        if len(found) > 1:
            raise AccessError(
                f"{file}: '{name_or_id}' is one key's name and another's id; give an id"
            )
        [at] = found
        rest = _without_table(text, at)
        if _parse(file, rest) != keys[:at] + keys[at + 1 :]:
            raise AccessError(f"{file}: written in an unusual way; take the key out by hand")
        _replace(file, rest)
        return keys[at]


# -- the file -------------------------------------------------------------------------------------


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise AccessError(
            f"{file}: {error.strerror or error}; make it with: headrace key create NAME --file {file}"
            if isinstance(error, FileNotFoundError)
            else f"{file}: {error.strerror or error}"
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise AccessError(f"{file}: larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise AccessError(f"{file}: not UTF-8") from None


def _parse(file: Path, text: str) -> list[ApiKey]:
    try:
        keys = msgspec.convert(tomllib.loads(text), _KeysFile).key
    except tomllib.TOMLDecodeError as error:
        raise AccessError(f"{file}: not valid TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise AccessError(f"{file}: {error}") from None
    for field in ("name", "id"):
        for value, count in Counter(getattr(key, field) for key in keys).items():
            if count > 1:
                raise AccessError(f"{file}: two keys have the {field} '{value}'")
    for key in keys:
        try:
            _check(key)
        except AccessError as error:
            raise AccessError(f"{file}: {error}") from None
    return keys


def _check(key: ApiKey) -> None:
    if key.burst_requests is not None and key.requests_per_s is None:
        raise AccessError(f"'{key.name}' has burst_requests without requests_per_s; give both")


def _table(key: ApiKey) -> str:
    lines = ["[[key]]"]
    for name, value in msgspec.structs.asdict(key).items():
        if value is None or value == ():
            continue
        if isinstance(value, datetime):
            lines.append(f"{name} = {_time(value)}")
        else:  # strings are of a few plain letters, by their patterns: JSON writes them as TOML does
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _without_table(text: str, wanted: int) -> str:
    """The text without its ``[[key]]`` number ``wanted``. Comments above the next table belong to that one."""
    lines = text.splitlines(keepends=True)
    starts = [at for at, line in enumerate(lines) if _KEY_TABLE.match(line)]
    if wanted >= len(starts):
        return text
    start = starts[wanted]
    end = start + 1
    while end < len(lines) and not _TABLE.match(lines[end]):
        end += 1
    while end < len(lines) and lines[end - 1].lstrip().startswith("#"):
        end -= 1
    return "".join(lines[:start] + lines[end:])


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One change at a time, by a lock on the folder: the file itself is replaced."""
    try:
        folder = os.open(_target(file).parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise AccessError(f"{file.parent}: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AccessError(
                f"{file}: somebody else is changing it; try again in a moment"
            ) from None
        yield
    finally:
        os.close(folder)


def _replace(file: Path, text: str) -> None:
    """The whole new text or the old one, whatever happens meanwhile."""
    target = _target(file)
    name = ""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            with suppress(FileNotFoundError):
                before = target.stat()
                os.fchmod(opened.fileno(), before.st_mode & 0o777)
                with suppress(PermissionError):  # only root may give files away
                    os.fchown(opened.fileno(), before.st_uid, before.st_gid)
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        Path(name).replace(target)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise AccessError(f"{file}: cannot be written: {error.strerror or error}") from None


def _target(file: Path) -> Path:
    """What a link points to is what is replaced."""
    return Path(os.path.realpath(file))
