from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from foundation.store_folder import (
    LOG_TAIL_LINES,
    MAX_LOG_BYTES,
    StoreError,
    StoreFolder,
)


def prepared(state_dir: Path) -> StoreFolder:
    folder = StoreFolder(str(state_dir))
    folder.prepare()
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "t"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_for_its_user_only(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "a" / "state")
    assert mode(folder.path) == mode(tmp_path / "a" / "state") == 0o700


def test_an_open_folder_is_closed_but_what_lies_around_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    before = mode(tmp_path)
    folder = prepared(tmp_path)
    assert (mode(folder.path), mode(tmp_path)) == (0o700, before)


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is no folder; move it away"):
        prepared(tmp_path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"Not a directory.* set \[store\] state_dir"):
        prepared(tmp_path / "file" / "state")


def test_the_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreError, match=r"belongs to user .* run it as that user"):
        prepared(tmp_path)


def test_a_short_path_has_its_socket_inside(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    assert folder.socket == folder.path / "store.sock"
    folder.socket.write_text("stale")
    assert folder.place_socket() == folder.socket
    assert not folder.socket.exists()


def test_a_long_path_has_its_socket_in_a_private_folder_that_others_find(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir = tmp_path / ("long" * 30)
    folder = prepared(state_dir)
    place = folder.place_socket()
    assert len(os.fsencode(place)) <= 107
    assert place.parent.parent == temporary
    assert mode(place.parent) == 0o700

    elsewhere = tmp_path / "u"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    other = prepared(state_dir)
    assert other.socket == place, "as it was written down"
    assert other.place_socket() == place, "a server started again keeps its socket"

    place.parent.rmdir()
    temporary.rmdir()
    assert other.place_socket().parent.parent == elsewhere, "unless that cannot be"
    assert other.socket.parent.parent == elsewhere


def test_two_spellings_are_one_folder(tmp_path: Path, temporary: Path) -> None:
    state_dir = tmp_path / ("long" * 30)
    folder = prepared(state_dir)
    (tmp_path / "short").symlink_to(state_dir)
    other = prepared(tmp_path / "short")
    assert other.place_socket() == folder.socket


def test_two_long_paths_have_two_sockets(tmp_path: Path, temporary: Path) -> None:
    one, two = (prepared(tmp_path / ("long" * 30) / name) for name in "ab")
    assert one.place_socket() != two.place_socket()


@pytest.mark.usefixtures("temporary")
def test_a_trap_in_the_temporary_directory(tmp_path: Path) -> None:
    folder = prepared(tmp_path / ("long" * 30))
    folder.socket.parent.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="is no folder"):
        folder.place_socket()


def test_nowhere_to_put_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prepared(tmp_path / ("long" * 30))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    with pytest.raises(StoreError, match=r"both too long .* set \[store\] state_dir"):
        folder.place_socket()


def test_a_long_log_is_put_aside_once(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    folder.make_room_in_log()
    folder.log.write_text("x" * MAX_LOG_BYTES)
    folder.make_room_in_log()
    assert folder.log_bytes() == MAX_LOG_BYTES, "not longer than it may be"
    for last in "yz":
        folder.log.write_text(last * (MAX_LOG_BYTES + 1))
        folder.make_room_in_log()
        assert folder.log_bytes() == 0
        assert (folder.path / "server.log.1").read_text()[0] == last
    logs = sorted(path.name for path in folder.path.iterdir())
    assert logs == ["server.log.1"]


def test_the_last_words_are_the_last_and_few(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    assert "No such file" in folder.last_words()
    folder.log.write_bytes(b"a" * 10**6 + b"\n\n" + b"".join(b"line %d\n" % i for i in range(50)))
    words = folder.last_words().splitlines()
    assert words[0] == f"{folder.log} ends with:"
    assert [word.strip() for word in words[1:]] == [
        f"line {i}" for i in range(50 - LOG_TAIL_LINES, 50)
    ]
    before = folder.log_bytes()
    assert folder.last_words(before) == f"{folder.log} is silent"
    with folder.log.open("ab") as log:
        log.write(b"Wr\xffong option\n")
    assert folder.last_words(before).endswith("ends with:\n  Wr\N{REPLACEMENT CHARACTER}ong option")
