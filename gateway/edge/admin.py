"""The admin port: metrics, health, and a JSON snapshot of what the process is doing.

Read-only so far. It must never stand in the way of a prediction: it has a port of its own and asks for values that are
kept anyway.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.edge.http_app import on_headrace_error, on_http_exception
from gateway.edge.server_info import ServerInfo


def build(registry: CollectorRegistry, info: ServerInfo, snapshot: Callable[[], Any]) -> Starlette:
    """The admin application; ``snapshot`` gives plain values."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def status(request: Request) -> Response:
        return _json(snapshot())

    async def live(request: Request) -> Response:
        return _json({"live": True})

    async def ready(request: Request) -> Response:
        is_ready, why = info.ready()
        return _json({"ready": True}) if is_ready else _json({"ready": False, "error": why}, 400)

    async def index(request: Request) -> Response:
        return _json({"paths": ["/status", "/metrics", "/v2/health/live", "/v2/health/ready"]})

    return Starlette(
        routes=[
            Route("/", index, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/status", status, methods=["GET"]),
            Route("/v2/health/live", live, methods=["GET"]),
            Route("/v2/health/ready", ready, methods=["GET"]),
        ],
        exception_handlers={HTTPException: on_http_exception, Exception: on_headrace_error},
    )


def _json(value: Any, status: int = 200) -> Response:
    body: bytes | str
    try:
        body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a path that is not UTF-8: rather escaped than not at all
        body = json.dumps(value, indent=2) + "\n"
    return Response(body, status, media_type="application/json")
