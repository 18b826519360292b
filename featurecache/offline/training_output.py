"""Where a training set may be written: never over or among the files that it is made of.

Decides which paths are refused, before anything is read. It must never write nor remove a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from featurecache.errors import RowError

CARD_ENDS = (".card.json", ".card.md")
"""What is written beside the file itself."""


def check_output(
    out: Path, spine: Path | str, spines: Sequence[Path], data: Path, patterns: Sequence[str]
) -> None:
    """``spine``: as it was given, with the files ``spines``; ``patterns`` of the sources below ``data``.

    Raises ``RowError`` when ``out`` or its card would replace an input, or become one of the next run.
    """
    if out.is_dir():
        raise RowError(f"{out} is a folder; write {out}/NAME.parquet")
    if not out.name:
        raise RowError("--out names no file; write NAME.parquet")
    for target in (out, *(out.with_name(out.name + end) for end in CARD_ENDS)):
        if any(_is_same(target, one) for one in spines):
            raise RowError(f"{target}: --out is the spine itself; choose another file")
        if _would_match(target, Path(), str(spine)):
            raise RowError(
                f"{target}: --out lies among the files of the spine {spine}, and the next run would read it; "
                "choose another folder"
            )
        for pattern in patterns:
            if _would_match(target, data, pattern):
                raise RowError(
                    f"{target}: --out lies among the files of the source {pattern}, and the next run would read it; "
                    "choose another folder"
                )


@contextmanager
def told_as_sentence(out: Path) -> Iterator[None]:
    """What goes wrong with files in the block is the output's fault: ``RowError``."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise RowError(f"{out} cannot be written ({why}); choose another --out") from None


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return Path(os.path.abspath(one)) == Path(os.path.abspath(other))


def _would_match(target: Path, base: Path, pattern: str) -> bool:
    """Whether ``base``'s files of ``pattern`` would hold ``target``, by names as they are or with links followed."""
    for wanted in (base / pattern, base.resolve() / pattern):
        parts = PurePath(os.path.abspath(wanted)).parts
        for one in (os.path.abspath(target), target.resolve()):
            if _parts_match(PurePath(one).parts, parts):
                return True
    return False


def _parts_match(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        if len(patterns) == 1:
            return True
        return any(_parts_match(names[i:], patterns[1:]) for i in range(len(names) + 1))
    return (
        bool(names)
        and (names[0] == patterns[0] or fnmatchcase(names[0], patterns[0]))
        and _parts_match(names[1:], patterns[1:])
    )
