"""The admin port: metrics, health, a JSON snapshot of what the process is doing, and what the data port takes.

It must never stand in the way of a prediction: it has a port of its own and asks for values that are
kept anyway.
"""

from __future__ import annotations

import json
from typing import Any

import orjson
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.edge import openapi
from gateway.edge.feature_lookup import FeatureRoutes
from gateway.edge.http_access import MutationsFromLoopbackOnly
from gateway.edge.http_app import on_headrace_error, on_http_exception
from gateway.edge.http_repository import RepositoryRoutes
from gateway.edge.rollout_access import ROOT, RolloutWall
from gateway.edge.rollout_routes import RolloutRoutes
from gateway.errors import HeadraceError
from gateway.ports import Instance


def build(instance: Instance, version: str, rollouts: RolloutRoutes | None = None) -> Any:
    """The admin application of an instance that is of this version. Without ``rollouts`` it knows none."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(await instance.metrics()), headers={"content-type": content_type})

    async def status(request: Request) -> Response:
        return _json(await instance.snapshot())

    async def live(request: Request) -> Response:
        return _json({"live": True})

    async def ready(request: Request) -> Response:
        is_ready, why = await instance.ready()
        return _json({"ready": True}) if is_ready else _json({"ready": False, "error": why}, 400)

    app = Starlette(
        routes=[
            *_descriptions(version, with_rollouts=rollouts is not None),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/status", status, methods=["GET"]),
            Route("/v2/health/live", live, methods=["GET"]),
            Route("/v2/health/ready", ready, methods=["GET"]),
            *FeatureRoutes(instance).routes(),
            *RepositoryRoutes(instance).routes(),
            *(rollouts.routes() if rollouts is not None else ()),
        ],
        exception_handlers={
            HTTPException: on_http_exception,
            HeadraceError: on_headrace_error,
            Exception: on_headrace_error,
        },
    )
    return MutationsFromLoopbackOnly(app) if rollouts is None else RolloutWall(app, rollouts.access)


PATHS = [
    "/status",
    "/metrics",
    "/openapi.json",
    "/v2/features",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/stats",
    "/v2/repository/index",
]


def _descriptions(version: str, *, with_rollouts: bool) -> list[Route]:
    """What the data port takes: as a document for programs, and as a page for a person with a browser."""
    whole = openapi.document(version, with_rollouts=with_rollouts)
    described = orjson.dumps(whole, option=orjson.OPT_INDENT_2)
    page = openapi.page(version, with_rollouts=with_rollouts)
    paths = sorted([*PATHS, ROOT]) if with_rollouts else PATHS

    async def document(request: Request) -> Response:
        return Response(described, media_type="application/json")

    async def index(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return Response(page, media_type="text/html")
        return _json({"paths": paths})

    return [
        Route("/", index, methods=["GET"]),
        Route("/openapi.json", document, methods=["GET"]),
    ]


def _json(value: Any, status: int = 200) -> Response:
    body: bytes | str
    try:
        body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a path that is not UTF-8: rather escaped than not at all
        body = json.dumps(value, indent=2) + "\n"
    return Response(body, status, media_type="application/json")
