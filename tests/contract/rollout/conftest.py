"""The stores that the port is tried on: the one in memory, and a real server over its Unix socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from rollout.memory_rollouts import MemoryRollouts
from rollout.ports import Rollouts
from rollout.redis_rollouts import RedisRollouts
from rollout.store_scripts import BEATS_KEY, LEASE_KEY, MODELS_KEY, evidence_key, plan_key
from tests.support.redis_servers import ValkeyServer

TIMEOUT_S = 0.5


class MemoryPlace:
    """The store in memory, whose time only the test moves."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._store = MemoryRollouts(lambda: self._now_s)
        self.go_away = self._store.go_away
        self.come_back = self._store.come_back
        self.lose_data = self._store.lose_data
        self.put_document = self._store.put_document
        self.put_report = self._store.put_report

    def connect(self) -> Rollouts:
        return self._store

    def pass_time(self, seconds: float) -> None:
        self._now_s += seconds


class ServerPlace:
    """A real server; what time does is done to the times that stand in it."""

    def __init__(self, server: ValkeyServer, client: redis.Redis) -> None:
        self._server = server
        self._client = client
        self.lose_data = client.flushall

    def connect(self) -> Rollouts:
        return RedisRollouts(self._server.socket_url, timeout_s=TIMEOUT_S)

    def pass_time(self, seconds: float) -> None:
        for worker, beat in self._client.hgetall(BEATS_KEY).items():
            came_ms, _, document = beat.partition(b" ")
            earlier = int(came_ms) - int(seconds * 1000)
            self._client.hset(BEATS_KEY, worker, b"%d %s" % (earlier, document))
        left_ms = self._client.pttl(LEASE_KEY) - int(seconds * 1000)
        if left_ms > 0:
            self._client.pexpire(LEASE_KEY, left_ms)
        else:
            self._client.delete(LEASE_KEY)

    def go_away(self) -> None:
        self._server.kill()

    def come_back(self) -> None:
        self._server.start()

    def put_document(self, model: str, document: bytes) -> None:
        self._client.sadd(MODELS_KEY, model)
        self._client.set(plan_key(model), document)

    def put_report(self, worker: str, model: str, began_revision: int, document: bytes) -> None:
        self._client.hset(evidence_key(model, began_revision), worker, document)


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture(params=["memory", "server"])
def place(request: pytest.FixtureRequest) -> Iterator[MemoryPlace | ServerPlace]:
    if request.param == "memory":
        yield MemoryPlace()
        return
    running: ValkeyServer = request.getfixturevalue("server")
    with running.client() as client:
        client.flushall()
        yield ServerPlace(running, client)
