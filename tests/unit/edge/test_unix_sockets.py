"""Paths of Unix sockets: the dead are replaced, the living and other files are not."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from gateway.edge.listeners import ListenError, address_of
from gateway.edge.unix_sockets import give_back, listen_on_path

SETTING = "server.http_unix_socket"


def test_a_path_is_claimed_with_its_permissions_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with listen_on_path(str(path), 0o640, SETTING) as claimed:
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert address_of(claimed) == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            claimed.accept()[0].close()
        give_back(str(path))
        assert not path.exists()
    give_back(str(path))


def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    with listen_on_path(str(path), 0o600, SETTING), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_socket_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with listen_on_path(str(path), 0o600, SETTING):
        with pytest.raises(ListenError, match=f"{path} is served by another process.*{SETTING}"):
            listen_on_path(str(path), 0o600, SETTING)
        assert path.is_socket()


def test_a_living_process_that_is_too_busy_to_accept_counts_as_living(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(str(path))
        with pytest.raises(ListenError, match="is served by another process"):
            listen_on_path(str(path), 0o600, SETTING)
    for client in waiting:
        client.close()


def test_any_other_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    with pytest.raises(ListenError, match=f"{path} exists and is no socket.*{SETTING}"):
        listen_on_path(str(path), 0o600, SETTING)
    assert path.read_text() == "precious"


def test_paths_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    nowhere = tmp_path / "missing" / "http.sock"
    with pytest.raises(ListenError, match=f"cannot listen on {nowhere} .*No such file"):
        listen_on_path(str(nowhere), 0o600, SETTING)
    with pytest.raises(ListenError, match="AF_UNIX path too long"):
        listen_on_path(str(tmp_path / ("x" * 120)), 0o600, SETTING)
