"""The private store after a bad day: stale files, broken data, a server that hangs, folders that will not do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from foundation.private_store import FIRST_PAUSE_S
from foundation.store import StoreError, StoreSettings, open_store
from foundation.store_server import Health, health
from tests.support.store_users import (
    CHECKOUT,
    ServerSeen,
    StoreUser,
    client_of,
    got,
    opened,
    put,
)
from tests.support.waiting import eventually


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def server(state_dir: Path) -> Iterator[ServerSeen]:
    with ServerSeen(state_dir) as seen:
        yield seen


# -- what others left behind ------------------------------------------------------------------------


def test_a_stale_socket_and_a_stale_pid_file_mean_nothing(
    state_dir: Path, server: ServerSeen
) -> None:
    with opened(state_dir) as store:
        put(store, row="1")
        server.kill()
        # As of a machine that went down: a socket that nobody listens on, and a pid that is a stranger's by now.
        with socket.socket(socket.AF_UNIX) as dead:
            server.folder.socket.unlink(missing_ok=True)
            dead.bind(str(server.folder.socket))
        server.folder.pid_file.write_text(str(os.getpid()))
    with opened(state_dir) as store:
        assert got(store.url, "row") == "1"
        assert server.pid != os.getpid()


def test_a_socket_that_takes_calls_and_never_answers(state_dir: Path, server: ServerSeen) -> None:
    server.folder.prepare()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(server.folder.socket))
        mute.listen()
        with opened(state_dir) as store:
            put(store, row="1")
            assert server.starts == 1


def test_data_is_waited_for_if_that_is_wished(state_dir: Path, server: ServerSeen) -> None:
    rows = 300_000
    fill = "for i = 1, ARGV[1] do redis.call('set', 'row:' .. i, i) end"
    with opened(state_dir) as store, closing(client_of(store.url)) as client:
        client.eval(fill, 0, rows)
    with open_store(StoreSettings(state_dir=str(state_dir)), wait_for_data=False) as early:
        assert health(server.folder.socket) is not Health.SILENT
        with opened(state_dir) as store, closing(client_of(store.url)) as client:
            assert client.dbsize() == rows
        assert early.url == store.url
    assert not server.is_there


def test_data_that_cannot_be_read_back(state_dir: Path, server: ServerSeen) -> None:
    with opened(state_dir) as store:
        put(store, row="1")
        [changes] = (server.folder.path / "appendonlydir").glob("*.incr.aof")
        whole = changes.read_bytes()
        server.kill()
        changes.write_bytes(whole.replace(b"$3\r\nrow", b"$x\r\nrow") + whole)

        def failed_starts() -> int:
            return server.folder.log.read_text().count("Bad file format")

        def tended(now_s: float, look: Callable[[], object]) -> Callable[[], object]:
            def tend_and_look() -> object:
                store.tend(now_s)
                return look()

            return tend_and_look

        eventually("a start that fails", tended(100.0, failed_starts))
        in_pause_s = 100.0 + FIRST_PAUSE_S
        eventually("trouble is told", tended(in_pause_s, lambda: store.trouble))
        assert "Bad file format" in store.trouble
        assert failed_starts() == 1, "the pause grows"
        after_pause_s = 100.0 + 2 * FIRST_PAUSE_S
        eventually("another start", tended(after_pause_s, lambda: failed_starts() == 2))
        eventually("its end", lambda: not server.is_there)
        changes.write_bytes(whole)
        eventually("a server", tended(200.0, lambda: health(server.folder.socket) is Health.READY))
        store.tend(201.0)
        assert store.trouble == ""
        assert got(store.url, "row") == "1"
    changes.write_bytes(b"nonsense\r\n" + whole)
    with pytest.raises(StoreError, match=r"(?s)server ended.*Bad file format"):
        opened(state_dir)
    assert not server.is_there


# -- a server that hangs ----------------------------------------------------------------------------


def test_a_server_that_hangs_is_ended_when_nobody_else_uses_it(
    state_dir: Path, server: ServerSeen
) -> None:
    with StoreUser(state_dir) as killed:
        with closing(client_of(killed.url)) as client:
            client.set("row", "1")
        killed.kill()
    server.signal(signal.SIGSTOP)
    with pytest.raises(StoreError, match=rf"process {server.pid}\) does not answer"):
        opened(state_dir, start_timeout_s=0.3, stop_timeout_s=0.2)
    assert not server.is_there
    with opened(state_dir) as store:
        assert got(store.url, "row") == "1"


def test_a_server_that_hangs_is_left_to_those_who_use_it(
    state_dir: Path, server: ServerSeen
) -> None:
    with StoreUser(state_dir) as one:
        pid = server.pid
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match=rf"process {pid}\) does not answer"):
                opened(state_dir, start_timeout_s=0.3, stop_timeout_s=0.2)
            assert server.pid == pid
        finally:
            server.signal(signal.SIGCONT)
        assert got(one.url, "none") is None
        one.leave()
    assert not server.is_there


# -- folders ----------------------------------------------------------------------------------------


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    state_dir = tmp_path / ("long" * 40) / "state"
    with ServerSeen(state_dir) as server:
        with StoreUser(state_dir) as other, opened(state_dir) as store:
            assert store.url == other.url
            assert server.folder.socket.parent.parent == Path(tempfile.gettempdir())
            put(store, row="1")
            server.kill()
            eventually("a new server", lambda: health(server.folder.socket) is Health.READY)
            assert got(store.url, "row") == "1"
            other.leave()
            assert server.is_there
        assert not server.is_there
        server.folder.socket.parent.rmdir()  # empty


def test_a_path_with_odd_signs(tmp_path: Path) -> None:
    state_dir = tmp_path / "a b%20?#'\"é"
    with ServerSeen(state_dir) as server, opened(state_dir) as store:
        put(store, row="1")
        assert server.starts == 1


def test_a_folder_that_may_not_be_written() -> None:
    """By a process that is no superuser: it gives that up after its imports, which may lie where others cannot read."""
    program = """
import os, sys
from foundation.store import StoreError, StoreSettings, open_store
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for state_dir in sys.argv[1:]:
    try:
        open_store(StoreSettings(state_dir=state_dir))
    except StoreError as error:
        print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "store").mkdir(mode=0o500)
        Path(folder).chmod(0o555)
        try:
            done = subprocess.run(
                [sys.executable, "-c", program, f"{folder}/new", folder],
                cwd=CHECKOUT,
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
        finally:
            Path(folder).chmod(0o700)
        made, entered = done.stdout.splitlines()
    assert f"cannot use {folder}/new: Permission denied; make it writable" in made
    assert "[store] state_dir" in made
    if os.getuid() == 0:
        assert "belongs to user 0, this process runs as user 65534" in entered


def test_a_folder_removed_in_use_is_told(state_dir: Path, server: ServerSeen) -> None:
    store = opened(state_dir)
    pid = server.pid
    state_dir.rename(state_dir.with_name("gone"))
    store.tend(1.0)
    assert "folder is gone" in store.trouble
    with pytest.raises(StoreError, match=rf"process {pid}: end that by hand"):
        store.close()
    state_dir.with_name("gone").rename(state_dir)
    assert server.pid == pid
    with opened(state_dir):
        pass
    assert not server.is_there
