"""The private store with real processes: who starts it, who ends it, and who mends it when somebody is killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import stat
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis

from foundation.store import StoreSettings, open_store
from foundation.store_server import Health, health
from tests.support.store_users import ServerSeen, StoreUser, client_of, got, opened, put
from tests.support.waiting import eventually

Opens = Callable[..., StoreUser]


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def server(state_dir: Path) -> Iterator[ServerSeen]:
    with ServerSeen(state_dir) as seen:
        yield seen


@pytest.fixture
def user(state_dir: Path, server: ServerSeen) -> Iterator[Opens]:
    """Makes processes that have the store open; none outlives the test."""
    with ExitStack() as made:

        def start(**how: Any) -> StoreUser:
            one = StoreUser(state_dir, **how)
            made.callback(one.dispose)
            return one

        yield start


# -- one process ------------------------------------------------------------------------------------


def test_a_command_that_ends_leaves_its_rows_and_no_process(
    state_dir: Path, server: ServerSeen
) -> None:
    with opened(state_dir) as store:
        assert store.is_private
        put(store, row="1")
        pid = server.pid
        assert store.url == store.name == f"unix://{server.folder.socket}?db=0"
    assert not server.is_there
    assert not server.folder.socket.exists()
    assert not server.folder.pid_file.exists(), f"process {pid} has tidied up"
    with opened(state_dir) as store:
        assert got(store.url, "row") == "1"


def test_only_its_user_can_reach_the_server(state_dir: Path, server: ServerSeen) -> None:
    with opened(state_dir) as store:
        assert stat.S_IMODE(server.folder.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.folder.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.folder.log.stat().st_mode) == 0o600
        assert server.process.net_connections(kind="inet") == []
        assert os.getsid(server.pid) != os.getsid(0), "no Ctrl-C of ours is for it"
        with closing(client_of(store.url)) as client:
            config = client.config_get()
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": str(2 * 1024**3),
        "maxmemory-policy": "noeviction",
    }
    assert {name: config[name] for name in wanted} == wanted


def test_a_full_store_refuses_and_forgets_nothing(state_dir: Path, server: ServerSeen) -> None:
    with opened(state_dir, max_memory_bytes=16 * 1024**2) as store:
        put(store, first="1")
        with closing(client_of(store.url)) as client:

            def fill() -> None:
                for number in range(40):
                    client.set(f"big{number}", b"x" * 1024**2)

            with pytest.raises(redis.ResponseError, match="maxmemory"):
                fill()
            assert client.get("first") == b"1"


def test_a_store_can_be_opened_twice_in_a_process(state_dir: Path, server: ServerSeen) -> None:
    with opened(state_dir) as one, opened(state_dir) as two:
        assert one.url == two.url
        one.close()
        one.close()
        assert server.is_there
    assert not server.is_there
    assert server.starts == 1


def test_from_a_loop_that_goes_on_meanwhile(state_dir: Path, server: ServerSeen) -> None:
    async def use() -> None:
        settings = StoreSettings(state_dir=str(state_dir))
        store = await asyncio.to_thread(open_store, settings)
        try:
            put(store, row="1")
            server.kill()
            took_s = []
            for turn in range(400):
                begin_s = time.perf_counter()
                store.tend(float(turn))
                took_s.append(time.perf_counter() - begin_s)
                if health(server.folder.socket) is Health.READY:
                    break
                await asyncio.sleep(0.01)
            assert got(store.url, "row") == "1"
            assert statistics.median(took_s) < 1e-3
        finally:
            await asyncio.to_thread(store.close)

    asyncio.run(asyncio.wait_for(use(), 30))
    assert not server.is_there


def test_a_server_of_the_settings_is_neither_started_nor_ended(
    state_dir: Path, server: ServerSeen, tmp_path: Path
) -> None:
    with opened(state_dir) as theirs:
        with opened(tmp_path / "other", redis_url=theirs.url) as store:
            assert (store.url, store.is_private) == (theirs.url, False)
            put(store, row="1")
            store.tend(0.0)
        assert got(theirs.url, "row") == "1"
        assert not (tmp_path / "other").exists()
        assert server.starts == 1


# -- several processes ------------------------------------------------------------------------------


def test_openers_at_once_start_one_server(user: Opens, server: ServerSeen) -> None:
    users = [user() for _ in range(5)]
    assert len({one.await_open().url for one in users}) == 1
    assert server.starts == 1
    for one in users:
        one.ask_to_leave()
    for one in users:
        one.await_left()
    assert not server.is_there, "one of those who left at once was the last"


def test_who_started_it_may_leave_before_the_others(user: Opens, server: ServerSeen) -> None:
    first, second = user().await_open(), user().await_open()
    pid = server.pid
    with closing(client_of(second.url)) as client:
        client.set("row", "1")
        first.leave()
        assert client.get("row") == b"1", "on the same connection"
    assert server.pid == pid
    second.leave()
    assert not server.is_there


def test_who_started_it_is_killed_and_the_others_go_on(user: Opens, server: ServerSeen) -> None:
    first, second = user().await_open(), user().await_open()
    pid = server.pid
    with closing(client_of(second.url)) as client:
        client.set("row", "1")
        first.kill()
        assert client.get("row") == b"1", "on the same connection"
    assert server.pid == pid
    second.leave()
    assert not server.is_there


def test_all_are_killed_and_the_next_one_finds_the_server(
    user: Opens, server: ServerSeen, state_dir: Path
) -> None:
    killed = user().await_open()
    with closing(client_of(killed.url)) as client:
        client.set("row", "1")
    pid = server.pid
    killed.kill()
    assert server.pid == pid
    with opened(state_dir) as store:
        assert server.pid == pid
        assert got(store.url, "row") == "1"
    assert not server.is_there


def test_the_server_is_killed_and_comes_back_with_its_data(user: Opens, server: ServerSeen) -> None:
    users = [user().await_open() for _ in range(3)]
    with closing(client_of(users[0].url)) as client:
        client.set("row", "1")
        killed = server.pid
        server.kill()
        eventually("a new server", lambda: health(server.folder.socket) is Health.READY)
        assert client.get("row") == b"1", "on the same address"
    assert server.pid != killed
    assert server.starts == 2, "one of the three started it"
    for one in users:
        one.leave()
    assert not server.is_there


def test_whoever_is_killed_no_confirmed_write_is_lost(user: Opens, server: ServerSeen) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    users = [user(counts=True).await_open() for _ in range(3)]
    everybody = list(users)
    for _ in range(6):
        goal = sum(one.counted for one in everybody) + 5
        if dice.random() < 0.5 and server.is_there:
            server.signal(signal.SIGKILL)
        else:
            users.pop(dice.randrange(len(users))).kill()
            users.append(user(counts=True).await_open())
            everybody.append(users[-1])

        def goes_on(goal: int = goal) -> bool:
            return sum(one.counted for one in everybody) > goal

        eventually(f"counting goes on (seed {seed})", goes_on, within_s=20)
    url = users[0].url
    for one in users[1:]:
        one.leave()
    confirmed = sum(one.counted for one in everybody[:])
    kept = int(got(url, "count") or 0)
    assert kept >= confirmed > 0, f"seed {seed}"
    users[0].leave()
    assert not server.is_there
