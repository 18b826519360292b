"""The stores that every row source is tried on: in this process, and real servers over each kind of connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.redis_servers import ValkeyCluster, ValkeyServer
from tests.support.row_stores import MemoryStore, ServerStore, Store


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as running:
        yield running


@pytest.fixture(scope="module")
def old_server() -> Iterator[ValkeyServer]:
    """Speaks RESP2 only, as servers before 6.0 do."""
    with ValkeyServer(rename_command='HELLO ""') as running:
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as running:
        yield running


TRACKING = ["memory", "slow memory", "tcp", "unix", "uvloop", "cluster"]


@pytest.fixture(params=[*TRACKING, "resp2"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from _store(request, request.param)


@pytest.fixture(params=TRACKING)
def tracking_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from _store(request, request.param)


def _store(request: pytest.FixtureRequest, kind: str) -> Iterator[Store]:
    if kind in ("memory", "slow memory"):
        yield MemoryStore(0.002 if kind == "slow memory" else 0.0)
        return
    running: Any
    client: redis.Redis | redis.RedisCluster
    if kind == "cluster":
        running = request.getfixturevalue("cluster")
        client = running.client()
    else:
        running = request.getfixturevalue("old_server" if kind == "resp2" else "server")
        client = running.client()
    url = running.socket_url if kind in ("unix", "uvloop") else running.url
    try:
        yield ServerStore(url, client, kind != "resp2", kind == "uvloop")
    finally:
        client.close()
