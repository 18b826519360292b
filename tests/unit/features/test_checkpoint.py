from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from featurecache.errors import FeatureError
from featurecache.writing.checkpoint import KEEP_S, Checkpoint, Progress, fingerprint_of
from featurecache.writing.store_keys import StoreKeys
from featurecache.writing.writing import WriteCounts


class Marks(dict[bytes, bytes]):
    """A store that remembers single keys."""

    def put(self, key: bytes, value: bytes, keep_s: int) -> None:
        assert keep_s == KEEP_S
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)


def checkpoint(folder: Path, store: Marks, fingerprint: str = "f" * 64) -> Checkpoint:
    keys = cast(StoreKeys, store)
    return Checkpoint(folder / "loads", keys, project="p", view="v", fingerprint=fingerprint)


def interrupted(folder: Path, store: Marks, groups: int = 3) -> Progress:
    one = checkpoint(folder, store)
    progress = one.open()
    progress.groups, progress.rows, progress.counts = groups, 30, WriteCounts(created=30)
    one.save(progress)
    one.close()
    return progress


def test_goes_on_where_it_stopped(tmp_path: Path) -> None:
    store = Marks()
    progress = interrupted(tmp_path, store)
    assert checkpoint(tmp_path, store).open() == progress


def test_other_files_begin_anew(tmp_path: Path) -> None:
    store = Marks()
    interrupted(tmp_path, store)
    assert checkpoint(tmp_path, store, "e" * 64).open().groups == 0


def test_from_scratch_begins_anew(tmp_path: Path) -> None:
    store = Marks()
    interrupted(tmp_path, store)
    assert checkpoint(tmp_path, store).open(from_scratch=True).groups == 0


def test_an_emptied_store_begins_anew(tmp_path: Path) -> None:
    interrupted(tmp_path, Marks())
    assert checkpoint(tmp_path, Marks()).open().groups == 0


def test_a_store_that_lost_its_last_moments_counts(tmp_path: Path) -> None:
    store = Marks()
    progress = interrupted(tmp_path, store)
    (mark,) = store
    store[mark] = b"%s 2" % progress.load.encode()
    found = checkpoint(tmp_path, store).open()
    assert (found.groups, found.rows, found.counts) == (2, 0, WriteCounts())


def test_a_mark_of_another_run_counts_for_nothing(tmp_path: Path) -> None:
    store = Marks()
    interrupted(tmp_path, store)
    (mark,) = store
    store[mark] = b"0123456789abcdef 3"
    assert checkpoint(tmp_path, store).open().groups == 0


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 100, b'{"load": 3}'])
def test_a_damaged_file_begins_anew(tmp_path: Path, damage: bytes) -> None:
    store = Marks()
    interrupted(tmp_path, store)
    checkpoint(tmp_path, store).path.write_bytes(damage)
    assert checkpoint(tmp_path, store).open().groups == 0


def test_two_loads_of_the_same_exclude_each_other(tmp_path: Path) -> None:
    store = Marks()
    first = checkpoint(tmp_path, store)
    first.open()
    with pytest.raises(FeatureError, match="another process"):
        checkpoint(tmp_path, store).open()
    checkpoint(tmp_path, store, "e" * 64).open()
    first.close()
    checkpoint(tmp_path, store).open()


def test_what_is_complete_leaves_no_trace(tmp_path: Path) -> None:
    store = Marks()
    interrupted(tmp_path, store)
    one = checkpoint(tmp_path, store)
    one.open()
    one.finish()
    assert store == {}
    assert not one.path.exists()
    assert checkpoint(tmp_path, store).open().groups == 0


def test_files_of_loads_long_given_up_are_swept(tmp_path: Path) -> None:
    store = Marks()
    interrupted(tmp_path, store)
    path = checkpoint(tmp_path, store).path
    old_s = path.stat().st_mtime - KEEP_S - 60
    os.utime(path, (old_s, old_s))
    checkpoint(tmp_path, store, "e" * 64).open()
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "loads").write_text("a file")
    with pytest.raises(FeatureError, match="state_dir"):
        checkpoint(tmp_path, Marks()).open()


def test_fingerprints_differ_by_any_part() -> None:
    assert fingerprint_of("a", 1) == fingerprint_of("a", 1) != fingerprint_of("a", 2)
