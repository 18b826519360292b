"""Our gRPC front for suites that ask it: one with limits that are soon reached, and a connection to it.

A module that needs another front defines its own; the connection goes to whichever the module has.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.settings import GrpcLimits
from tests.support.grpc_in_thread import GrpcInThread
from tests.support.raw_h2 import RawGrpc


@pytest.fixture
def front() -> Iterator[GrpcInThread]:
    with GrpcInThread(GrpcLimits(max_stream_requests=8, max_message_bytes=1024 * 1024)) as running:
        yield running


@pytest.fixture
def connection(front: GrpcInThread) -> Iterator[RawGrpc]:
    with RawGrpc(front.address) as one:
        yield one
