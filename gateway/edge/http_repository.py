"""Repository and statistics over REST: index, load, unload, and what every version has done.

On the data port as Triton has it, and on the admin port. It must never act itself: the instance's control does, and
decides who may.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.edge.request_options import refuse_load_parameters, refuse_unload_parameters
from gateway.edge.statistics import model_statistics
from gateway.errors import invalid
from gateway.ports import RepositoryControl

MAX_BODY_BYTES = 64 * 1024


class RepositoryRoutes:
    """Handlers that ask ``control``."""

    def __init__(self, control: RepositoryControl) -> None:
        self._control = control

    async def index(self, request: Request) -> Response:
        wanted = await json_object(request)
        only_ready = wanted.get("ready", False)
        if not isinstance(only_ready, bool):
            raise invalid("'ready' must be true or false")
        return _json(
            [
                msgspec.structs.asdict(status)
                for status in await self._control.index()
                if status.state == "READY" or not only_ready
            ]
        )

    async def load(self, request: Request) -> Response:
        refuse_load_parameters(_parameters(await json_object(request)))
        await self._control.load(request.path_params["model"])
        return Response()

    async def unload(self, request: Request) -> Response:
        refuse_unload_parameters(_parameters(await json_object(request)))
        await self._control.unload(request.path_params["model"])
        return Response()

    async def statistics(self, request: Request) -> Response:
        model, version = (request.path_params.get(key, "") for key in ("model", "version"))
        return _json(model_statistics(await self._control.statistics(model, version)))

    def routes(self) -> list[Route]:
        """Every path; those with a fixed word must stand before those of models."""
        model = "/v2/models/{model}"
        return [
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self.unload, methods=["POST"]),
            Route("/v2/models/stats", self.statistics, methods=["GET"]),
            Route(model + "/stats", self.statistics, methods=["GET"]),
            Route(model + "/versions/{version}/stats", self.statistics, methods=["GET"]),
        ]


async def json_object(request: Request, max_bytes: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """The body of a request that is no tensor: a small JSON object, or nothing."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise invalid(f"the body has more than {max_bytes} bytes")
    if not body.strip():
        return {}
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"the body is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise invalid("the body must be a JSON object")
    return found


def _parameters(body: dict[str, Any]) -> dict[str, Any]:
    parameters = body.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid("'parameters' must be a JSON object")
    return parameters


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
