"""What tells one state of a version's files from another, without reading them.

Decides which files belong to a version and what counts as a change: a file that comes or goes, or
that has another size or modification time. It must never open a file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from backends.errors import ModelLoadError

SETTINGS_FILES = ("model.toml", "config.pbtxt")
MAX_FILES = 10_000
MAX_DEPTH = 8
"""Of folders below a version; a link that leads in a circle ends here."""

_NOT_THERE = "-"


def settings_fingerprint(model_folder: Path) -> str:
    """Of the files that configure all versions of a model; those that are missing count, too."""
    states = (f"{name}\0{_state(model_folder / name)}" for name in SETTINGS_FILES)
    return _digest("\n".join(states))


def version_fingerprint(version_folder: Path, settings: str) -> str:
    """Of every file below ``version_folder``, hidden ones included, and of its model's settings.

    Hidden files count because copying programs write to them first: while one grows, the version
    is not complete. Raises ``ModelLoadError`` when there is no end of files, and ``OSError``.
    """
    states: list[str] = []
    for name, state in _files(version_folder, "", 0):
        states.append(f"{name}\0{state}")
        if len(states) > MAX_FILES:
            raise ModelLoadError(f"more than {MAX_FILES} files in {version_folder}")
    files = _digest("\n".join(sorted(states)))
    return f"{settings}-{files}"


def current_fingerprint(version_folder: Path) -> str:
    """What a look at the version would find now. Raises as ``version_fingerprint`` does."""
    return version_fingerprint(version_folder, settings_fingerprint(version_folder.parent))


def _files(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if not entry.is_dir():
                yield name, _state(Path(entry.path))
            elif depth < MAX_DEPTH:
                yield from _files(Path(entry.path), f"{name}/", depth + 1)


def _state(path: Path) -> str:
    """Size and modification time of what ``path`` leads to. It may vanish while we look."""
    try:
        found = path.stat()
    except OSError:
        return _NOT_THERE
    return f"{found.st_size} {found.st_mtime_ns}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
