"""Secrets that are handed out once and recognised ever after: how they are made, kept in a file, and compared.

API keys (``foundation/access.py``) and operators' tokens (``foundation/tokens.py``) are both ``<prefix><id>_<secret>``,
and both stand in a TOML file of tables with the id in the clear and a SHA-256 of the secret. A slow hash is for what
people choose; the secret is 32 bytes of the system's randomness, which nobody can try through, and a slow hash would
only let strangers buy our CPU time with wrong secrets. This module must never print, log or store a secret: it is
handed out once, by ``CredentialKind.mint``.
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta

SECRET_BYTES = 32
ID_BYTES = 6
MAX_FILE_BYTES = 1024 * 1024

_HASH_PREFIX = "sha256:"
_TABLE = re.compile(r"^[ \t]*\[")


class AccessError(Exception):
    """A file of keys or tokens, or a wish, that cannot be used; the message is for the operator, without secrets."""


class Credential(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every entry says."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    """For people, logs and metrics."""
    id: Annotated[str, Meta(pattern=r"^[a-z0-9]{4,32}$")]
    hash: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
    """Of the secret alone."""
    created: Annotated[datetime, Meta(tz=True)] | None = None
    expires: Annotated[datetime, Meta(tz=True)] | None = None

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over; what names no time never ends."""
        return self.expires is not None and self.expires <= now


EntryT = TypeVar("EntryT", bound=Credential)


class CredentialRing(Generic[EntryT]):
    """Tells whose credential was presented. It does not look at the clock: that is for whoever asks."""

    def __init__(self, entries: Iterable[EntryT], prefix: str) -> None:
        self._prefix = prefix.encode()
        self._entries = {entry.id.encode(): entry for entry in entries}
        self._digests = {
            entry_id: bytes.fromhex(entry.hash.removeprefix(_HASH_PREFIX))
            for entry_id, entry in self._entries.items()
        }
        self._nobodys_digest = secrets.token_bytes(hashlib.sha256().digest_size)

    def find(self, presented: bytes) -> EntryT | None:
        """The entry that it belongs to; None for any other bytes.

        Every answer takes the same steps: an unknown id is compared with a digest that no secret has, so that time
        tells neither whether an id exists nor how much of a secret was right.
        """
        entry_id, _, secret = presented.removeprefix(self._prefix).partition(b"_")
        is_right = hmac.compare_digest(
            hashlib.sha256(secret).digest(), self._digests.get(entry_id, self._nobodys_digest)
        )
        entry = self._entries.get(entry_id)
        return entry if is_right and presented.startswith(self._prefix) else None


class CredentialKind(Generic[EntryT]):
    """One kind of credential, and the files that hold it.

    ``noun`` names it for people and is the name of its tables; ``prefix`` begins each one; ``how_to_make`` is the
    command that adds one; ``check`` raises ``AccessError`` for an entry whose parts do not go together.
    """

    def __init__(
        self,
        shape: type[EntryT],
        *,
        noun: str,
        prefix: str,
        max_entries: int,
        how_to_make: str,
        head: str,
        check: Callable[[EntryT], None] = lambda _: None,
    ) -> None:
        self.noun = noun
        self.prefix = prefix
        self._shape = shape
        self._how_to_make = how_to_make
        self._head = head
        self._check = check
        self._table_start = re.compile(rf"^[ \t]*\[\[[ \t]*{re.escape(noun)}[ \t]*\]\]")
        self._file_shape = msgspec.defstruct(
            f"{shape.__name__}File",
            [
                (
                    noun,
                    Annotated[list[shape], Meta(max_length=max_entries)],  # type: ignore[valid-type]
                    msgspec.field(default_factory=list),
                )
            ],
            forbid_unknown_fields=True,
        )

    def mint(
        self, make: Callable[[str, str, datetime], EntryT], now: datetime
    ) -> tuple[EntryT, str]:
        """A new entry, made by ``make(id, hash, created)``, and what its holder presents, which is nowhere kept.

        Raises ``AccessError`` for what makes no sense.
        """
        secret = secrets.token_urlsafe(SECRET_BYTES)
        entry = make(
            secrets.token_hex(ID_BYTES),
            _HASH_PREFIX + hashlib.sha256(secret.encode()).hexdigest(),
            now.astimezone(UTC).replace(microsecond=0),
        )
        try:
            entry = msgspec.convert(msgspec.to_builtins(entry), self._shape)
        except msgspec.ValidationError as error:
            raise AccessError(f"not a usable {self.noun}: {error}") from None
        self._check(entry)
        if entry.expires is not None and entry.is_expired(now):
            raise AccessError(
                f"'{entry.name}' would have expired already, at {_time(entry.expires)}"
            )
        return entry, f"{self.prefix}{entry.id}_{secret}"

    def read(self, file: Path) -> list[EntryT]:
        """All entries of the file; raises ``AccessError`` with what to change."""
        return self._parse(file, self._text(file))

    def add(self, file: Path, entry: EntryT) -> None:
        """Append the entry; a file that is not there is made, readable by its owner only."""
        with locked(file):
            text = self._text(file) if file.exists() else self._head
            entries = self._parse(file, text)
            for other in entries:
                if other.name == entry.name:
                    raise AccessError(
                        f"{file}: there is a {self.noun} named '{entry.name}' already (id {other.id}); "
                        "revoke it or take another name"
                    )
            if text and not text.endswith("\n"):
                text += "\n"
            text += f"\n[[{self.noun}]]\n{_table_body(entry)}"
            if self._parse(file, text) != [*entries, entry]:
                raise AccessError(
                    f"{file}: a table after the {self.noun}s is in the way; move the {self.noun}s last"
                )
            _replace(file, text)

    def remove(self, file: Path, name_or_id: str) -> EntryT:
        """Take the entry out of the file and give it back. The rest of the file stays as it was written."""
        with locked(file):
            text = self._text(file)
            entries = self._parse(file, text)
            found = [at for at, one in enumerate(entries) if name_or_id in (one.name, one.id)]
            if not found:
                known = ", ".join(one.name for one in entries) or "none"
                raise AccessError(
                    f"{file}: no {self.noun} has the name or id '{name_or_id}'; there are: {known}"
                )
            if len(found) > 1:
                raise AccessError(
                    f"{file}: '{name_or_id}' is one {self.noun}'s name and another's id; give an id"
                )
            [at] = found
            rest = self._without_table(text, at)
            if self._parse(file, rest) != entries[:at] + entries[at + 1 :]:
                raise AccessError(
                    f"{file}: written in an unusual way; take the {self.noun} out by hand"
                )
            _replace(file, rest)
            return entries[at]

    def _text(self, file: Path) -> str:
        try:
            with file.open("rb") as opened:
                content = opened.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise AccessError(
                f"{file}: {error.strerror or error}; make it with: {self._how_to_make} --file {file}"
                if isinstance(error, FileNotFoundError)
                else f"{file}: {error.strerror or error}"
            ) from None
        if len(content) > MAX_FILE_BYTES:
            raise AccessError(f"{file}: larger than {MAX_FILE_BYTES} bytes")
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise AccessError(f"{file}: not UTF-8") from None

    def _parse(self, file: Path, text: str) -> list[EntryT]:
        try:
            parsed = msgspec.convert(tomllib.loads(text), self._file_shape)
        except tomllib.TOMLDecodeError as error:
            raise AccessError(f"{file}: not valid TOML: {error}") from None
        except msgspec.ValidationError as error:
            raise AccessError(f"{file}: {error}") from None
        entries: list[EntryT] = getattr(parsed, self.noun)
        for field in ("name", "id"):
            for value, count in Counter(getattr(entry, field) for entry in entries).items():
                if count > 1:
                    raise AccessError(f"{file}: two {self.noun}s have the {field} '{value}'")
        for entry in entries:
            try:
                self._check(entry)
            except AccessError as error:
                raise AccessError(f"{file}: {error}") from None
        return entries

    def _without_table(self, text: str, wanted: int) -> str:
        """The text without its table number ``wanted``. Comments above the next table belong to that one."""
        lines = text.splitlines(keepends=True)
        starts = [at for at, line in enumerate(lines) if self._table_start.match(line)]
        if wanted >= len(starts):
            return text
        start = starts[wanted]
        end = start + 1
        while end < len(lines) and not _TABLE.match(lines[end]):
            end += 1
        while end < len(lines) and lines[end - 1].lstrip().startswith("#"):
            end -= 1
        return "".join(lines[:start] + lines[end:])


# -- the file -------------------------------------------------------------------------------------


@contextmanager
def locked(file: Path) -> Iterator[None]:
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


def _table_body(entry: Credential) -> str:
    lines = []
    for name, value in msgspec.structs.asdict(entry).items():
        if value is None or value == ():
            continue
        if isinstance(value, datetime):
            lines.append(f"{name} = {_time(value)}")
        else:  # strings are of a few plain letters, by their patterns: JSON writes them as TOML does
            plain = value.value if isinstance(value, Enum) else value
            lines.append(f"{name} = {json.dumps(plain)}")
    return "\n".join(lines) + "\n"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


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
