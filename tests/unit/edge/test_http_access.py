"""The wall of the admin port, by the scopes that uvicorn makes; the data port's is tried end to end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.edge.http_access import MutationsFromLoopbackOnly

LOCAL = ("127.0.0.1", 5000)
REMOTE = ("192.0.2.7", 5000)
SERVER = ("192.0.2.1", 8002)


def ask(
    method: str,
    client: tuple[str, int] | None,
    *,
    path: str = "/v2/repository/models/m/load",
    server: tuple[str, int | None] | None = SERVER,
    headers: dict[str, str] | None = None,
) -> tuple[int, str]:
    """The status, and why it was refused."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"error": ""}'})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "client": client,
        "server": server,
        "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
    }
    asyncio.run(MutationsFromLoopbackOnly(app)(scope, None, send))
    start, body = sent
    return start["status"], json.loads(body["body"])["error"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("client", [LOCAL, REMOTE, None])
def test_everybody_may_look(method: str, client: Any) -> None:
    assert ask(method, client)[0] == 200


def test_everybody_may_read_the_index() -> None:
    assert ask("POST", REMOTE, path="/v2/repository/index")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW", "get"])
@pytest.mark.parametrize(
    "host",
    ["192.0.2.7", "10.0.0.1", "::2", "::ffff:192.0.2.7", "0.0.0.0", "", "localhost", "1270.0.1"],
)
def test_changes_from_elsewhere_are_refused(method: str, host: str) -> None:
    status, why = ask(method, (host, 1))
    assert status == 403
    assert "from this machine only" in why
    assert "tunnel" in why


def test_features_are_looked_up_from_here_only() -> None:
    path = "/v2/features/flights/lookup"
    status, why = ask("POST", REMOTE, path=path)
    assert status == 403
    assert "features are shown to this machine only" in why
    assert ask("POST", LOCAL, path=path)[0] == 200
    assert ask("GET", REMOTE, path="/v2/features")[0] == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_changes_from_here_are_taken(host: str) -> None:
    assert ask("POST", (host, 1))[0] == 200


def test_a_unix_socket_is_here_and_a_peer_that_has_gone_is_not() -> None:
    assert ask("POST", None, server=("/run/headrace.sock", None))[0] == 200
    assert ask("POST", None)[0] == 403
    assert ask("POST", None, server=None)[0] == 403


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_a_header_makes_nobody_local(name: str) -> None:
    assert ask("POST", REMOTE, headers={name: "127.0.0.1"})[0] == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8002", 200),
        ("http://LOCALHOST:8002", 200),
        ("http://localhost:8003", 403),
        ("http://pages.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
    ],
)
def test_pages_of_other_sites_change_nothing(origin: str, status: int) -> None:
    headers = {"host": "localhost:8002", "origin": origin}
    assert ask("POST", LOCAL, headers=headers)[0] == status


def test_a_name_that_was_pointed_here_is_another_site() -> None:
    headers = {"host": "pages.example:8002", "origin": "http://pages.example:8002"}
    assert ask("POST", LOCAL, headers=headers)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8002", "[::1]:8002", "localhost"])
def test_our_own_pages_may_send_changes(host: str) -> None:
    assert ask("POST", LOCAL, headers={"host": host, "origin": f"http://{host}"})[0] == 200


def test_a_page_without_a_host_is_another_site() -> None:
    assert ask("POST", LOCAL, headers={"origin": "null"})[0] == 403
