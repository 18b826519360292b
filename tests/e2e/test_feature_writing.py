"""Compare-and-set in real stores: one server, a cluster, a server that fails, several writers at once."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from featurecache.columns import Float32, Int64, String, Values, Vector
from featurecache.errors import RowError, SourceError
from featurecache.rows.codec import RowCodec, is_sound
from featurecache.rows.keys import key_frame
from featurecache.rows.schema import RowSchema
from featurecache.writing.store_client import StoreClients, _NamedConnection
from featurecache.writing.writing import RowWriter, WriteCounts
from tests.support.certificates import Authority
from tests.support.redis_servers import SentinelTrio, ValkeyCluster, ValkeyServer
from tests.support.tcp_proxy import TcpProxy

SCHEMA = RowSchema([("n", Int64), ("x", Float32)])
CODEC = RowCodec(SCHEMA)
WIDE = RowCodec(RowSchema([("n", Int64), ("v", Vector(Float32, 400))]))
TEXTS = RowCodec(RowSchema([("n", Int64), ("s", String)]))
FRAME = key_frame("p", "user", "v")
SECOND_US = 1_000_000


def key(name: object) -> bytes:
    return FRAME[0] + str(name).encode() + FRAME[1]


def row(n: int, event_us: int, write_us: int, codec: RowCodec = CODEC) -> bytes:
    columns: dict[str, Values] = {"n": np.array([n]), "x": np.zeros(1), "v": np.zeros((1, 400))}
    columns["s"] = np.array([f"text {n}"], np.object_)
    return codec.encode(columns, {}, np.array([event_us]), write_us)[0]


def n_of(stored: object) -> int:
    assert isinstance(stored, bytes)
    assert is_sound(stored)
    return int(CODEC.table([stored]).column("n")[0])


def now_us() -> int:
    return time.time_ns() // 1000


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def clients(server: ValkeyServer) -> Iterator[StoreClients]:
    with server.client() as one:
        one.flushall()
    with StoreClients(server.socket_url) as opened:
        yield opened


def put(
    clients: StoreClients,
    name: object,
    one: bytes,
    *,
    keep_us: int | None = None,
    patience_s: float = 5.0,
) -> WriteCounts:
    writer = RowWriter(clients, patience_s=patience_s)
    event_us = int.from_bytes(one[8:16], "little", signed=True)
    writer.write([key(name)], [one], np.array([event_us]), now_us=now_us(), keep_us=keep_us)
    writer.flush()
    writer.close()
    return writer.counts


@pytest.mark.parametrize("codec", [CODEC, WIDE, TEXTS], ids=["short", "long", "texts"])
@pytest.mark.parametrize("keep_us", [None, 3600 * SECOND_US], ids=["kept", "expiring"])
def test_the_newest_event_wins_whatever_the_order(
    clients: StoreClients, server: ValkeyServer, codec: RowCodec, keep_us: int | None
) -> None:
    now = now_us()
    versions = [(now - 3000, now - 10), (now - 2000, now - 10), (now - 2000, now - 9), (-5, now)]
    rows = [row(i, event, write, codec) for i, (event, write) in enumerate(versions)]
    keep_us = keep_us and keep_us + now  # the row of 1969 is kept, too
    for order in permutations(range(4)):
        for i in order:
            put(clients, order, rows[i], keep_us=keep_us)
        assert server.client().get(key(order)) == rows[2], order


def test_outcomes_are_counted(clients: StoreClients) -> None:
    now = now_us()
    first = row(1, now - 2000, now)
    assert put(clients, "a", first) == WriteCounts(created=1)
    assert put(clients, "a", first) == WriteCounts(rewritten=1)
    assert put(clients, "a", row(2, now - 2000, now - 1)) == WriteCounts(older=1)
    assert put(clients, "a", row(3, now - 2001, now + 1)) == WriteCounts(older=1)
    assert put(clients, "a", row(4, now - 1999, now - 5)) == WriteCounts(newer=1)


@pytest.mark.parametrize("codec", [CODEC, WIDE], ids=["short", "long"])
def test_what_is_no_row_is_replaced(
    clients: StoreClients, server: ValkeyServer, codec: RowCodec
) -> None:
    now = now_us()
    client, good = server.client(), row(1, now - SECOND_US, now, codec)
    far = bytearray(row(9, now, now, codec))
    far[8:16] = (now + 10**15).to_bytes(8, "little")
    strangers: list[bytes] = [b"", b"x", good[:39], b"\2" + good[1:], bytes(far)]
    for i, stranger in enumerate(strangers):
        client.set(key(i), stranger)
        assert put(clients, i, good) == WriteCounts(created=1)
        assert client.get(key(i)) == good
    client.rpush(key("list"), "x")
    assert put(clients, "list", good) == WriteCounts(created=1)
    assert client.get(key("list")) == good


def test_rows_expire_by_their_event_time(clients: StoreClients, server: ValkeyServer) -> None:
    now, day_us = now_us(), 86_400 * SECOND_US
    old = row(1, now - day_us // 2, now)
    assert put(clients, "a", old, keep_us=day_us) == WriteCounts(created=1)
    forgotten_us = server.client().pexpiretime(key("a")) * 1000
    assert abs(forgotten_us - (now + day_us // 2)) <= 2000
    assert put(clients, "b", row(1, now - day_us - 1, now), keep_us=day_us) == WriteCounts(
        expired=1
    )
    assert server.client().get(key("b")) is None
    # The same row again under another retention gets that one.
    assert put(clients, "a", old, keep_us=2 * day_us) == WriteCounts(rewritten=1)
    assert abs(server.client().pttl(key("a")) - 1.5 * 86_400_000) < 60_000
    assert put(clients, "a", old) == WriteCounts(rewritten=1)
    assert server.client().pttl(key("a")) == -1


def test_nothing_is_written_when_one_row_is_of_the_future(
    clients: StoreClients, server: ValkeyServer
) -> None:
    now = now_us()
    times = np.array([now, now + 301 * SECOND_US])
    writer = RowWriter(clients)
    with pytest.raises(RowError, match="row 2: "):
        writer.write([key(1), key(2)], [row(1, now, now)] * 2, times, now_us=now, keep_us=None)
    writer.flush()
    assert server.client().dbsize() == 0


def test_of_rows_with_one_key_the_newest_is_sent(
    clients: StoreClients, server: ValkeyServer
) -> None:
    now = now_us()
    times = [now - 3, now - 1, now - 2, now - 1]
    rows = [row(i, event, now) for i, event in enumerate(times)]
    writer = RowWriter(clients)
    writer.write([key("a")] * 4, rows, np.array(times), now_us=now, keep_us=None)
    writer.flush()
    assert writer.counts == WriteCounts(created=1, duplicates=3)
    assert n_of(server.client().get(key("a"))) == 3


def test_a_store_that_forgets_its_scripts_is_told_again(
    clients: StoreClients, server: ValkeyServer
) -> None:
    writer, now = RowWriter(clients), now_us()
    for i in range(50):
        writer.write([key(i)], [row(i, now, now)], np.array([now]), now_us=now, keep_us=None)
        if i % 10 == 5:
            server.client().script_flush()
    writer.flush()
    assert writer.counts.total == 50
    assert server.client().dbsize() == 50
    assert writer.repeats


def test_a_full_store_says_so(clients: StoreClients, server: ValkeyServer) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(SourceError, match="is full"):
                put(clients, "a", row(1, now_us(), now_us()))
        finally:
            client.config_set("maxmemory", "0")


def test_a_server_that_restarts_is_waited_for() -> None:
    with (
        ValkeyServer(appendonly="yes", appendfsync="always") as own,
        StoreClients(own.url) as clients,
    ):
        writer, now = RowWriter(clients, patience_s=20), now_us()
        for i in range(40):
            if i == 20:
                own.kill()
                restart = threading.Thread(target=own.start)
                restart.start()
            writer.write([key(i)], [row(i, now, now)], np.array([now]), now_us=now, keep_us=None)
        writer.flush()
        restart.join()
        assert writer.repeats
        assert {n_of(own.client().get(key(i))) for i in range(40)} == set(range(40))


def test_a_server_that_is_gone_is_given_up() -> None:
    own = ValkeyServer()
    with own:
        pass
    with (
        StoreClients(f"redis://127.0.0.1:{own.port}") as clients,
        pytest.raises(SourceError, match="cannot be reached"),
    ):
        put(clients, 1, row(1, now_us(), now_us()), patience_s=0.2)


def test_a_wrong_password_and_a_replica_are_told() -> None:
    now = now_us()
    with ValkeyServer(requirepass="secret") as own:
        with StoreClients(f"redis://:wrong@127.0.0.1:{own.port}") as clients:
            with pytest.raises(SourceError, match="does not let us in") as told:
                put(clients, 1, row(1, now, now))
            assert "wrong" not in str(told.value).split("(")[0]
        with (
            StoreClients(own.url) as clients,
            pytest.raises(SourceError, match="does not let us in"),
        ):
            put(clients, 1, row(1, now, now))
        with StoreClients(f"redis://:secret@127.0.0.1:{own.port}") as clients:
            assert put(clients, 1, row(1, now, now)).created == 1
    with (
        ValkeyServer() as master,
        ValkeyServer(replicaof=f"127.0.0.1 {master.port}") as replica,
        StoreClients(replica.url) as clients,
        pytest.raises(SourceError, match="replica"),
    ):
        put(clients, 1, row(1, now, now), patience_s=0.3)


@pytest.mark.parametrize("kind", ["server", "cluster", "sentinel"])
def test_tls_looks_for_the_name_that_the_address_says(tmp_path: Path, kind: str) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("store")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with ValkeyServer() as own, TcpProxy(own.port, context) as proxy:
        place = {
            "server": f"rediss://127.0.0.1:{proxy.port}",
            "cluster": f"rediss+cluster://127.0.0.1:{proxy.port}",
            "sentinel": f"rediss+sentinel://127.0.0.1:{proxy.port}/main",
        }[kind]
        for name, told in (("127.0.0.1", ""), ("elsewhere.example", "elsewhere.example")):
            with StoreClients(f"{place}?ca={authority.file}&server_name={name}") as clients:
                client = clients.seeds()[0] if kind == "cluster" else clients.server()
                if kind == "sentinel":  # who are asked first, and the master likewise
                    pool: Any = client.connection_pool
                    client = pool.sentinel_manager.sentinels[0]
                    assert pool.connection_kwargs["server_name"] == name
                    assert pool.connection_class.__mro__.index(_NamedConnection) > 0
                said = _refusal(client.ping)
                assert (told in said) if told else not said, said


def _refusal(ask: Callable[[], object]) -> str:
    try:
        ask()
    except redis.RedisError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("keep_us", [None, 3600 * SECOND_US])
def test_writers_at_once_leave_the_newest_of_each_row(
    clients: StoreClients, server: ValkeyServer, keep_us: int | None
) -> None:
    now, names, writers = now_us(), 60, 4
    rng = np.random.default_rng(7)
    times = now - rng.permutation(names * writers * 30).reshape(writers, 30, names)

    def work(number: int) -> None:
        with StoreClients(server.url) as own:
            writer = RowWriter(own)
            for turn, events in enumerate(times[number]):
                rows = [row(int(event - now), int(event), now + turn) for event in events]
                keys = [key(i) for i in range(names)]
                writer.write(keys, rows, events, now_us=now, keep_us=keep_us)
            writer.flush()
            total.append(writer.counts.total)

    total: list[int] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(writers)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert total == [names * 30] * writers
    newest = times.max(axis=(0, 1)) - now
    assert [n_of(server.client().get(key(i))) for i in range(names)] == newest.tolist()


def test_a_cluster_gets_every_row_also_while_a_slot_moves() -> None:
    now, names = now_us(), 3_000
    with ValkeyCluster() as cluster, StoreClients(cluster.url) as clients:
        writer = RowWriter(clients, patience_s=10)
        keys = [key(i) for i in range(names)]
        for turn in range(6):
            rows = [row(1000 * turn + i % 1000, now + turn, now) for i in range(names)]
            if turn == 3:
                move_slots(cluster, keys[:3])
            writer.write(keys, rows, np.full(names, now + turn), now_us=now, keep_us=None)
        writer.flush()
        assert writer.counts.total == 6 * names
        assert writer.counts.created == names
        with cluster.client() as client:
            assert [n_of(client.get(one)) for one in keys] == [
                5000 + i % 1000 for i in range(names)
            ]


def move_slots(cluster: ValkeyCluster, keys: list[bytes]) -> None:
    """To the next node, with their keys, as operators' tools do."""
    with cluster.client() as knows:
        for one in keys:
            slot = knows.keyslot(one)
            ports = [node.port for node in cluster.nodes]
            place = ports.index(knows.get_node_from_key(one).port)
            source = cluster.nodes[place].client()
            target = cluster.nodes[(place + 1) % len(ports)].client()
            source_id, target_id = (
                node.execute_command("CLUSTER", "MYID").decode() for node in (source, target)
            )
            target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
            source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
            found = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
            port = target.connection_pool.connection_kwargs["port"]
            if found:
                source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *found)
            for node in (target, source):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)


def test_rows_go_on_to_the_new_master_after_a_failover() -> None:
    now = now_us()
    with SentinelTrio() as trio, StoreClients(trio.url) as clients:
        writer = RowWriter(clients, patience_s=30)
        for i in range(30):
            if i == 10:
                trio.master.client().execute_command("WAIT", 1, 2000)
                trio.master.kill()
            writer.write([key(i)], [row(i, now, now)], np.array([now]), now_us=now, keep_us=None)
            if i < 10:
                writer.flush()
        writer.flush()
        assert {n_of(trio.replica.client().get(key(i))) for i in range(30)} == set(range(30))


def test_a_connection_that_breaks_loses_nothing(server: ValkeyServer) -> None:
    now = now_us()
    with server.client() as client:
        client.flushall()
    with TcpProxy(server.port) as proxy, StoreClients(f"redis://127.0.0.1:{proxy.port}") as clients:
        writer = RowWriter(clients, patience_s=10)
        for i in range(600):
            writer.write([key(i)], [row(i, now, now)], np.array([now]), now_us=now, keep_us=None)
            if i % 100 == 50:
                server.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        writer.flush()
        assert writer.counts.total == 600
        assert {n_of(server.client().get(key(i))) for i in range(600)} == set(range(600))
        assert writer.repeats
