"""The last good plan of each model on this machine's disk: what a gateway starts with while the store is away.

Decides which plan may take another's place, and writes so that a crash leaves the old one or the new one. What cannot
be read is set aside with a warning, never deleted and never used. It must never ask the store, and never judge a plan.

One file per model, ``<digest of the name>.json``, the very document; the name is in it. Calls wait for the disk: from a
coroutine make them in a thread.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rollout.plan import MAX_DOCUMENT_BYTES, Plan, PlanError, decode_plan
from rollout.ports import Stored

FOLDER_MODE = 0o700
FILE_MODE = 0o600
MAX_FILES = 4096
BROKEN = ".broken"
_NEW = ".new"

_log = logging.getLogger(__name__)


class LastKnownError(Exception):
    """The folder cannot be used; the message says what to do."""


class LastKnown:
    """The plans in ``folder``, which is made when needed; of one process, or of several that write the same store's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def read(self) -> dict[str, Stored]:
        """By model. Raises ``LastKnownError`` when the folder cannot be read; a file that cannot be is set aside."""
        found: dict[str, Stored] = {}
        with self._lock, _said(self._folder):
            for path in self._files():
                stored = self._stored(path)
                if stored is not None:
                    found[stored.plan.model] = stored
        return found

    def keep(self, stored: Stored) -> bool:
        """Write it, unless what is there is as new or newer (``succeeds``). True when it was written, to the disk.

        Raises ``LastKnownError``, and then the file is as it was.
        """
        path = self._path(stored.plan.model)
        with self._lock, _said(self._folder):
            self._folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            before = self._stored(path) if path.exists() else None
            if before is not None and not succeeds(stored.plan, before.plan):
                return False
            _replace(path, stored.document)
        return True

    def _path(self, model: str) -> Path:
        # A model's name may be longer than a file's, or differ in its case alone.
        digest = hashlib.sha256(model.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{digest[:32]}.json"

    def _files(self) -> Iterator[Path]:
        if not self._folder.is_dir():
            return
        paths = sorted(self._folder.glob("*.json"))
        if len(paths) > MAX_FILES:
            _log.warning(
                "%s has %d plans; only the first %d are read: remove those of models that are gone",
                self._folder,
                len(paths),
                MAX_FILES,
            )
        yield from paths[:MAX_FILES]

    def _stored(self, path: Path) -> Stored | None:
        """What stands in the file; None after it was set aside."""
        try:
            with path.open("rb") as opened:
                document = opened.read(MAX_DOCUMENT_BYTES + 1)
            plan = decode_plan(document)
            if self._path(plan.model) != path:
                raise PlanError(f"it is of model {plan.model}, whose file has another name")
        except PlanError as error:
            aside = path.with_suffix(BROKEN)
            path.replace(aside)
            _log.warning("%s cannot be used (%s); it is now %s", path, error, aside)
            return None
        return Stored(plan, document)


def succeeds(new: Plan, old: Plan) -> bool:
    """Whether ``new`` came after ``old``: a higher revision of the same plan, or a plan that took its place.

    A plan that replaced another tells so in its history, whatever clocks did; of two that know nothing of each other
    (the store was emptied, or restored) the one submitted later counts.
    """
    same = (new.began_revision, new.created_s) == (old.began_revision, old.created_s)
    if same or _descends(new, old) or _descends(old, new):
        return new.revision > old.revision
    return new.created_s > old.created_s


def _descends(new: Plan, old: Plan) -> bool:
    return any(
        entry.revision == old.revision and entry.at_s == old.updated_s for entry in new.history
    )


def _replace(path: Path, document: bytes) -> None:
    """The whole file, or none of it; on the disk when this returns."""
    # Another process may do the same at once, so the new file's name is this one's own.
    new = path.with_suffix(f".{os.getpid()}{_NEW}")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(fd, "wb") as opened:
            opened.write(document)
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Errors of the disk as ``LastKnownError``."""
    try:
        yield
    except OSError as error:
        raise LastKnownError(
            f"the last known plans in {error.filename or folder} cannot be used: "
            f"{error.strerror or error}; make the folder readable and writable for this process"
        ) from None
