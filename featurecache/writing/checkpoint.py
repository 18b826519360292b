"""How far a load has come: a file in the state folder, and a mark of the same in the store itself.

Decides where the same command goes on. The file alone would not do: a store that was emptied, exchanged or has lost
its last second would then miss rows for ever. So the mark travels with the rows, and what counts is the lesser of the
two. It must never go on from a checkpoint of other files, another schema or another store.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from featurecache.errors import FeatureError, SourceError
from featurecache.manifests.files import replace_file
from featurecache.writing.store_keys import StoreKeys
from featurecache.writing.writing import WriteCounts
from foundation.flocks import FileLock, try_lock

KEEP_S = 7 * 86_400
"""A load that was not gone on with for so long begins anew."""


class Progress(msgspec.Struct):
    """What is done of a load."""

    load: str
    """Drawn at its first start: the file and the mark must name the same."""
    groups: int = 0
    """Row groups, counted over all files in order, whose rows are in the store."""
    rows: int = 0
    """Read from them."""
    skipped: int = 0
    """Of them, bad ones."""
    counts: WriteCounts = msgspec.field(default_factory=WriteCounts)


class Checkpoint:
    """Of one load; held alone from ``open`` to ``close``."""

    def __init__(
        self, folder: Path, store: StoreKeys, *, project: str, view: str, fingerprint: str
    ) -> None:
        """``fingerprint``: of everything that changes what is loaded."""
        name = f"{view}-{fingerprint[:16]}"
        self._folder = folder
        self.path = folder / f"{name}.json"
        self._lock_path = folder / f"{name}.lock"
        self._store = store
        self._mark = f"hr:{project}:{{~load}}:{name}".encode()
        self._lock: FileLock | None = None

    def open(self, *, from_scratch: bool = False) -> Progress:
        """Where to go on. Raises ``FeatureError`` when another process does the same load now."""
        self._prepare()
        found = None if from_scratch else self._found()
        if found is None:
            found = Progress(secrets.token_hex(8))
            self.save(found)
        return found

    def save(self, progress: Progress) -> None:
        """Called when every row of ``progress.groups`` was answered."""
        self._store.put(self._mark, b"%s %d" % (progress.load.encode(), progress.groups), KEEP_S)
        replace_file(self.path, msgspec.json.encode(progress))

    def finish(self) -> None:
        """The load is complete: the next one begins anew."""
        self.path.unlink(missing_ok=True)
        with suppress(
            SourceError
        ):  # the mark expires by itself, and without the file it means nothing
            self._store.delete(self._mark)
        self.close()

    def close(self) -> None:
        """Let others do the load."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def _prepare(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            self._lock = try_lock(self._lock_path)
        except OSError as error:
            raise FeatureError(
                f"{self._folder}: {error.strerror or error}; set [store] state_dir to a folder that can be written"
            ) from None
        if self._lock is None:
            raise FeatureError(
                "another process loads the same files into the same store now; wait for its end, or end it"
            )

    def _found(self) -> Progress | None:
        try:
            noted = msgspec.json.decode(self.path.read_bytes(), type=Progress)
        except (OSError, msgspec.DecodeError):
            return None
        self.go_back(noted)
        return noted if noted.groups else None

    def go_back(self, progress: Progress) -> None:
        """To what the store itself remembers, if that is less: it has lost its last moments, or everything."""
        load, _, groups = (self._store.get(self._mark) or b"").partition(b" ")
        is_ours = load == progress.load.encode() and groups.isdigit()
        marked = int(groups) if is_ours else 0
        if marked < progress.groups:
            progress.groups = marked
            progress.rows, progress.skipped, progress.counts = 0, 0, WriteCounts()

    def _sweep(self) -> None:
        """Files of loads that nobody went on with."""
        old_s = time.time() - KEEP_S
        for path in [*self._folder.glob("*.json"), *self._folder.glob("*.lock")]:
            with suppress(OSError):
                if path.stat().st_mtime < old_s:
                    path.unlink()


def fingerprint_of(*parts: object) -> str:
    """SHA-256 over values as JSON."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()
