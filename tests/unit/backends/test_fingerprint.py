from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import backends.fingerprint
from backends.errors import ModelLoadError
from backends.fingerprint import MAX_DEPTH, current_fingerprint

Change = Callable[[Path], object]


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "m" / "3"
    (folder / "weights").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"one")
    (folder / "weights" / "w.bin").write_bytes(b"two")
    return folder


def later(path: Path) -> None:
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model.onnx").write_bytes(b"longer"),
        lambda folder: later(folder / "model.onnx"),
        lambda folder: later(folder / "weights" / "w.bin"),
        lambda folder: (folder / "weights" / "w.bin").unlink(),
        lambda folder: (folder / "model.onnx").rename(folder / "other.onnx"),
        lambda folder: (folder / ".model.onnx.Xy12").write_bytes(b""),
        lambda folder: (folder.parent / "model.toml").write_text(""),
        lambda folder: (folder.parent / "config.pbtxt").write_text(""),
    ],
)
def test_every_change_of_a_file_shows(version: Path, change: Change) -> None:
    before = current_fingerprint(version)
    change(version)
    assert current_fingerprint(version) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model.onnx").read_bytes(),
        lambda folder: (folder.parent / "README.md").write_text("of nobody's concern"),
        lambda folder: (folder.parent / "4").mkdir(),
        lambda folder: (folder / "empty").mkdir(),
    ],
)
def test_what_is_no_file_of_the_version_does_not(version: Path, change: Change) -> None:
    before = current_fingerprint(version)
    change(version)
    assert current_fingerprint(version) == before


def test_a_link_stands_for_what_it_leads_to(version: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.bin"
    (version / "link.bin").symlink_to(target)
    dangling = current_fingerprint(version)
    target.write_bytes(b"there now")
    there = current_fingerprint(version)
    later(target)
    assert len({dangling, there, current_fingerprint(version)}) == 3


def test_links_in_a_circle_end(version: Path) -> None:
    (version / "again").symlink_to(version)
    assert current_fingerprint(version) == current_fingerprint(version)
    deep = version.joinpath(*map(str, range(MAX_DEPTH + 1)))
    deep.mkdir(parents=True)
    before = current_fingerprint(version)
    (deep / "too_deep").write_bytes(b"")
    assert current_fingerprint(version) == before


def test_there_is_an_end_of_files(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.fingerprint, "MAX_FILES", 2)
    current_fingerprint(version)
    (version / "third").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="more than 2 files in "):
        current_fingerprint(version)


def test_a_folder_that_is_gone_is_an_error(version: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        current_fingerprint(version.parent / "4")
