"""Plain infers take the fast lane, whichever usual client sends them: the short cut is no special case."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable

import httpx
import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio

from tests.support.raw_http import floats_json, infer_path
from tests.support.server_process import ServerProcess

CALLS = 200
BODY = floats_json()
PATH = infer_path("identity")
JSON_HEADERS = {"Content-Type": "application/json"}


def _http_client(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection(*server.http, timeout=5)
    for _ in range(CALLS):
        connection.request("POST", PATH, BODY, JSON_HEADERS)
        response = connection.getresponse()
        assert response.read()
        assert response.status == 200
    connection.close()


def _httpx(server: ServerProcess) -> None:
    with httpx.Client(base_url=_url(server)) as client:
        for _ in range(CALLS):
            assert client.post(PATH, content=BODY, headers=JSON_HEADERS).status_code == 200


def _httpx_async(server: ServerProcess) -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(base_url=_url(server)) as client:
            for _ in range(CALLS // 20):
                answers = await asyncio.gather(
                    *(client.post(PATH, content=BODY, headers=JSON_HEADERS) for _ in range(20))
                )
                assert {one.status_code for one in answers} == {200}

    asyncio.run(ask())


def _connection_each(server: ServerProcess) -> None:
    for _ in range(CALLS):
        connection = http.client.HTTPConnection(*server.http, timeout=5)
        connection.request("POST", PATH, BODY, JSON_HEADERS | {"Connection": "close"})
        assert connection.getresponse().status == 200
        connection.close()


def _tritonclient(server: ServerProcess) -> None:
    client = tritonclient.http.InferenceServerClient(_address(server))
    for _ in range(CALLS):
        assert client.infer("identity", [_triton_input()]).as_numpy("y").shape == (1, 4)
    client.close()


def _tritonclient_aio(server: ServerProcess) -> None:
    async def ask() -> None:
        async with tritonclient.http.aio.InferenceServerClient(_address(server)) as client:
            for _ in range(CALLS):
                result = await client.infer("identity", [_triton_input()])
                assert result.as_numpy("y").shape == (1, 4)

    asyncio.run(ask())


def _triton_input() -> object:
    one = tritonclient.http.InferInput("x", [1, 4], "FP32")
    one.set_data_from_numpy(np.ones((1, 4), np.float32))
    return one


def _address(server: ServerProcess) -> str:
    return "{}:{}".format(*server.http)


def _url(server: ServerProcess) -> str:
    return f"http://{_address(server)}"


CLIENTS: dict[str, Callable[[ServerProcess], None]] = {
    "http.client": _http_client,
    "http.client, a connection each": _connection_each,
    "httpx": _httpx,
    "httpx, 20 at once": _httpx_async,
    "tritonclient.http": _tritonclient,
    "tritonclient.http.aio": _tritonclient_aio,
}


def _taken(server: ServerProcess, path: str) -> float:
    return server.metric("headrace_http_infer_paths_total", path=path)


@pytest.mark.parametrize("client", CLIENTS)
def test_share_of_the_lane(server: ServerProcess, client: str) -> None:
    lane, asgi = _taken(server, "fast_lane"), _taken(server, "asgi")
    CLIENTS[client](server)
    lane, asgi = _taken(server, "fast_lane") - lane, _taken(server, "asgi") - asgi
    assert lane + asgi == CALLS
    assert lane >= 0.99 * CALLS, f"{client}: {asgi:g} of {CALLS} took the ASGI route"
