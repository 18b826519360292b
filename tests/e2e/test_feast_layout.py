"""A store that feast wrote, in a real server, read through ``FeastSource``.

Most of it runs on what feast wrote once (``recorded.json``). Tests marked ``feast`` let the installed package, in a
venv of its own, write and answer now: ``make feast-check`` makes the venv and runs them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from featurecache.errors import SourceError
from featurecache.feast.feast_layout import FeastLayout
from featurecache.feast.feast_rows import UNREADABLE
from featurecache.feast.feast_source import FeastSource
from featurecache.joining.view_use import ViewUse
from featurecache.lookups.lookup import RowLookup
from featurecache.lookups.lookup_limits import LookupLimits
from featurecache.lookups.lookup_waiting import ViewKeys
from featurecache.sources.dialing import Address, Login
from featurecache.sources.ports import RowSource
from featurecache.sources.source_limits import SourceLimits
from featurecache.status import Status
from tests.support import loops
from tests.support.feast_store import comparing
from tests.support.redis_servers import ValkeyServer

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / os.environ.get("FEAST_VENV", ".bench/feast/venv")
FEAST_WITHIN_S = 120.0
KEY_TTL_S = 1000
LOGIN = Login(track=False)


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def recorded(server: ValkeyServer) -> comparing.Said:
    """The server holds what feast wrote when it was recorded."""
    said = comparing.recorded()
    with server.client() as client:
        comparing.write(client, said)
    return said


def hash_of(said: comparing.Said, airport: bytes) -> bytes:
    """Feast's name of an airport."""
    names = [bytes.fromhex(name) for name in said["hashes"]]
    (found,) = (
        name
        for name in names
        if name.endswith(airport + comparing.PROJECT.encode()) and name[0] == 1
    )
    return found


def source_at(server: ValkeyServer, project: str = comparing.PROJECT) -> FeastSource:
    layout = FeastLayout(comparing.manifest(), project)
    return FeastSource(Address(path=str(server.socket)), LOGIN, SourceLimits(), layout)


async def fetched(source: RowSource, keys: Sequence[bytes]) -> list[bytes | None]:
    """The rows, or the error raised."""
    answer: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()

    def done(rows: Sequence[bytes | None] | None, error: SourceError | None) -> None:
        if error is not None:
            answer.set_exception(error)
        else:
            assert rows is not None
            answer.set_result(list(rows))

    source.fetch(keys, done, track=True)
    assert not answer.done()
    return await answer


def read(server: ValkeyServer, keys: Sequence[bytes]) -> tuple[list[bytes | None], int]:
    """Rows and how many were unreadable, from a source that lives for one fetch."""
    found: list[tuple[list[bytes | None], int]] = []

    async def test() -> None:
        source = source_at(server)
        await source.start()
        try:
            rows = await fetched(source, keys)
            found.append((rows, source.unreadable_rows))
        finally:
            await source.close()

    loops.run(test)
    return found[0]


# -- what feast wrote once --------------------------------------------------------------------------


def test_every_value_is_as_feast_read_it(server: ValkeyServer, recorded: comparing.Said) -> None:
    keys, answers = comparing.asked(recorded)
    rows, unreadable = read(server, keys)
    assert comparing.assert_same(rows, answers) == 5 * 11 + 2 * 4 + 2 + 2 + 2
    assert unreadable == 0


def test_one_odd_key_costs_nobody_else_anything(
    server: ValkeyServer, recorded: comparing.Said
) -> None:
    keys, answers = comparing.asked(recorded)
    odd = [
        b"hr:ours:{airport:ODD}:rates",  # no hash: the server refuses to read it as one
        b"hr:ours:{airport:JFK}:gone",  # no such view
        b"hr:ours:{flight:twelve}:delays",  # no such entity
    ]
    with server.client() as client:
        airport = hash_of(recorded, b"JFK")
        client.set(airport.replace(b"JFK", b"ODD"), "a string")
    rows, unreadable = read(server, [*odd, *keys])
    assert rows[:3] == [UNREADABLE, UNREADABLE, None]
    assert unreadable == 2
    comparing.assert_same(rows[3:], answers)
    assert read(server, odd[:1]) == ([UNREADABLE], 1)


def test_a_lookup_behind_it_judges_rows_as_it_does_our_own(
    server: ValkeyServer, recorded: comparing.Said
) -> None:
    manifest = comparing.manifest()
    spec = msgspec.structs.replace(manifest.view("rates"), max_age_s=60.0, cache_ttl_s=10.0)
    use = ViewUse(manifest, spec, {}, ["rate0"])
    name = hash_of(recorded, b"JFK")
    with server.client() as client:
        client.set(name.replace(b"JFK", b"ODD"), "a string")
    keys = use.row_keys([b"JFK", b"BOS", b"never", b"ODD"])  # JFK's row is 0.877 s older than BOS's
    now_us = 1_772_600_768_000_000 + 59_500_000
    seen: list[list[int]] = []

    async def test() -> None:
        loop = asyncio.get_running_loop()
        source = source_at(server)
        await source.start()
        lookups = RowLookup(
            source, loop=loop, clock=loop.time, limits=LookupLimits(), random_unit=lambda: 0.5
        )
        for _ in range(2):  # from the store, then from copies
            lookup = lookups.ask([ViewKeys(use.caching, keys)], loop.time() + 5)
            await loops.until(lambda lookup=lookup: lookup.settled)
            statuses = use.read(lookup.rows, lookup.aged, now_us).statuses
            assert statuses is not None
            seen.append(statuses.tolist())
        assert lookups.counters.missed_slots == len(keys)
        await source.close()

    loops.run(test)
    assert seen == [[Status.STALE, Status.PRESENT, Status.MISSING, Status.ERROR]] * 2


def test_the_store_stays_as_it_was(server: ValkeyServer, recorded: comparing.Said) -> None:
    with server.client() as client:
        before = {key: client.hgetall(key) for key in client.scan_iter()}
        read(server, comparing.asked(recorded)[0])
        assert {key: client.hgetall(key) for key in client.scan_iter()} == before
        calls = client.info("commandstats")
        assert calls["cmdstat_hmget"]["calls"] >= 1


def test_a_refusal_is_no_missing_row() -> None:
    with ValkeyServer() as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "-hmget")
        with pytest.raises(SourceError, match="the server refused the read: NOPERM"):
            read(server, [comparing.key_of("rates", {"origin": "JFK"})])


def test_without_a_server_a_fetch_says_so() -> None:
    with ValkeyServer() as server:
        server.kill()
        with pytest.raises(SourceError, match="feast at"):
            read(server, [comparing.key_of("rates", {"origin": "JFK"})])


def test_a_fetch_that_needs_no_command_is_answered_and_one_of_no_keys_is_refused(
    server: ValkeyServer,
) -> None:
    assert read(server, [b"hr:ours:{flight:twelve}:delays"]) == ([None], 0)
    with pytest.raises(SourceError, match="a fetch has 1 to 500 keys, not 0"):
        read(server, [])


# -- what feast writes now --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def feast_python() -> Path:
    if not (VENV / ".installed").is_file():
        pytest.skip(f"feast is not installed in {VENV}: run `make feast-check`")
    return VENV / "bin" / "python"


def write_with_feast(
    python: Path, server: ValkeyServer, folder: Path, *options: str
) -> comparing.Said:
    """What feast says after it wrote everything anew."""
    with server.client() as client:
        client.flushall()
    command = [str(python), "-m", "tests.support.feast_store.write_store"]
    command += ["--port", str(server.port), "--folder", str(folder), *options]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, timeout=FEAST_WITHIN_S, check=False, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    said: comparing.Said = json.loads(ran.stdout)
    return said


@pytest.mark.feast
def test_feast_of_today_is_read_as_it_reads_itself(
    server: ValkeyServer, feast_python: Path, tmp_path: Path
) -> None:
    said = write_with_feast(feast_python, server, tmp_path)
    keys, answers = comparing.asked(said)
    rows, unreadable = read(server, keys)
    assert comparing.assert_same(rows, answers) == 5 * 11 + 2 * 4 + 2 + 2 + 2
    assert unreadable == 0
    recorded = comparing.recorded()
    for what in ("hashes", "murmur", "keys"):
        assert said[what] == recorded[what], f"feast {said['feast']} writes other {what}"


@pytest.mark.feast
def test_entities_that_feast_lets_expire_are_missing(
    server: ValkeyServer, feast_python: Path, tmp_path: Path
) -> None:
    said = write_with_feast(feast_python, server, tmp_path, "--key-ttl-s", str(KEY_TTL_S))
    assert KEY_TTL_S - FEAST_WITHIN_S < min(said["expiry_s"]) <= max(said["expiry_s"]) <= KEY_TTL_S
    keys, answers = comparing.asked(said)
    comparing.assert_same(read(server, keys)[0], answers)
    with server.client() as client:
        for key in client.scan_iter():
            client.pexpire(key, 0)  # as if their time were over
    assert read(server, keys)[0] == [None] * len(keys)
