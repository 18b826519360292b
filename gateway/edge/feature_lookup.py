"""Definitions and values of features over REST, at the admin port.

Decides the paths and how large a question may be. It must never look anything up itself: the instance does, in one of
its workers.
"""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.edge.http_repository import json_object
from gateway.ports import FeatureReader

MAX_BODY_BYTES = 1024 * 1024


class FeatureRoutes:
    """Handlers that ask ``reader``."""

    def __init__(self, reader: FeatureReader) -> None:
        self._reader = reader

    async def index(self, request: Request) -> Response:
        return _json(await self._reader.features())

    async def service(self, request: Request) -> Response:
        return await self._look_up("service", request)

    async def view(self, request: Request) -> Response:
        return await self._look_up("view", request)

    async def _look_up(self, kind: str, request: Request) -> Response:
        asked = await json_object(request, MAX_BODY_BYTES)
        return _json(await self._reader.look_up(kind, request.path_params[kind], asked))

    def routes(self) -> list[Route]:
        """Every path."""
        return [
            Route("/v2/features", self.index, methods=["GET"]),
            Route("/v2/features/{service}/lookup", self.service, methods=["POST"]),
            Route("/v2/features/views/{view}/lookup", self.view, methods=["POST"]),
        ]


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
