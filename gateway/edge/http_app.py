"""The ASGI application of the data port: every route, infer included.

The fast lane answers plain infer calls before they get here; what is unusual about a request ends up here and is
answered by the same decoder, service and encoder. It must never know a concrete backend, and every error leaves as
``{"error": …}``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.call import Call
from gateway.core.quota import Quota
from gateway.edge.call_traces import note_decoded
from gateway.edge.feature_push import PushRoutes
from gateway.edge.http_access import HOLDER, KeysRequired
from gateway.edge.http_body import request_body
from gateway.edge.http_front import HttpFront, Reply, error_reply
from gateway.edge.http_repository import RepositoryRoutes
from gateway.edge.infer_head import InferPlan, wanted_compression
from gateway.edge.json_codec import OutputEncoding, decode_infer
from gateway.edge.server_info import ServerInfo
from gateway.errors import CallCancelled, ErrorCode, HeadraceError, invalid
from gateway.messages import Prediction, PredictRequest, Trace
from gateway.ports import FeaturePusher, RepositoryControl

Handler = Callable[[Request], Awaitable[Response]]


class FutureCall(Call[Prediction]):
    """A call whose end is an asyncio future, for handlers that are tasks anyway."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        super().__init__()
        self.outcome: asyncio.Future[tuple[Prediction | None, BaseException | None]] = (
            asyncio.get_running_loop().create_future()
        )

    def finish(self, result: Prediction | None, error: BaseException | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result((result, error))


class DataRoutes:
    """The handlers of the data port."""

    def __init__(self, front: HttpFront, info: ServerInfo) -> None:
        self._front = front
        self._info = info

    # -- the server -------------------------------------------------------------------------------

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        ready, why = self._info.ready()
        return _json({"ready": True}) if ready else _json({"ready": False, "error": why}, 400)

    async def server_metadata(self, request: Request) -> Response:
        return _json(self._info.server_metadata())

    # -- one model --------------------------------------------------------------------------------

    async def model_metadata(self, request: Request) -> Response:
        return _json(self._info.model_metadata(*_names(request)))

    async def model_config(self, request: Request) -> Response:
        return _json(self._info.model_config(*_names(request)))

    async def model_ready(self, request: Request) -> Response:
        model, version = _names(request)
        ready, why = self._info.model_ready(model, version)
        if ready:
            return _json({"name": model, "ready": True})
        return _json({"name": model, "ready": False, "error": why}, 400)

    # -- infer ------------------------------------------------------------------------------------

    async def infer(self, request: Request) -> Response:
        front = self._front
        front.metrics.http_paths["asgi"] += 1
        model, version = _names(request)
        plan = InferPlan(
            model=model,
            version=version,
            content_length=0,
            header_length=None,
            keep_alive=True,
            compression=wanted_compression(",".join(request.headers.getlist("accept-encoding"))),
            traceparent=",".join(request.headers.getlist("traceparent")).encode("latin-1"),
            tracestate=",".join(request.headers.getlist("tracestate")).encode("latin-1"),
            holder=request.scope.get(HOLDER),
        )
        trace: Trace | None = None
        decoded: PredictRequest | None = None
        encoding: OutputEncoding | None = None
        prediction: Prediction | None = None
        failure: BaseException | None = None
        quota: Quota | None = None
        try:
            if plan.holder is not None:
                quota = plan.holder.enter(front.clock())
            front.catalog.find(model, version)  # an unknown model need not send its body
            body = await request_body(request, front.limits.max_body_bytes, front.admission)
            received_s = front.clock()
            if front.traces is not None:
                trace = front.begin_trace(plan, received_s)
            servable = front.catalog.find(model, version)  # it may have been swapped meanwhile
            decoded, encoding = decode_infer(
                body,
                _header_length(request, len(body)),
                servable,
                version,
                received_s,
                request.headers.raw,
            )
            if trace is not None:
                note_decoded(trace, decoded, front.clock())
            prediction, failure = await self._predict(request, decoded)
        except ClientDisconnect:
            failure = CallCancelled()
        except Exception as error:  # noqa: BLE001  the status table words it, as in the lane
            failure = error
        finally:
            if quota is not None:
                quota.leave()
        reply = front.reply(plan, decoded, encoding, prediction, failure, trace)
        if trace is not None and front.traces is not None:
            front.traces.end(trace, reply.status)
        return _response(reply)

    async def _predict(
        self, request: Request, decoded: PredictRequest
    ) -> tuple[Prediction | None, BaseException | None]:
        """Send it through the service; a caller that hangs up cancels it."""
        call = FutureCall()
        call.start(self._front.service(decoded))
        if call.outcome.done():
            return call.outcome.result()
        watch = asyncio.create_task(_hung_up(request))
        try:
            await asyncio.wait((call.outcome, watch), return_when=asyncio.FIRST_COMPLETED)
            if not call.outcome.done():
                call.cancel()
            return call.outcome.result()
        finally:
            call.cancel()
            watch.cancel()

    def routes(self) -> list[Route]:
        """Every path but the repository's and those of features."""
        model = "/v2/models/{model}"
        found: list[Route] = [
            Route("/v2", self.server_metadata, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
        ]
        for prefix in (model, model + "/versions/{version}"):
            found += [
                Route(prefix, self.model_metadata, methods=["GET"]),
                Route(prefix + "/ready", self.model_ready, methods=["GET"]),
                Route(prefix + "/config", self.model_config, methods=["GET"]),
                Route(prefix + "/infer", self.infer, methods=["POST"]),
            ]
        return found


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _names(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _header_length(request: Request, body_bytes: int) -> int | None:
    values = request.headers.getlist("inference-header-content-length")
    if not values:
        return None
    value = values[0].strip()
    if len(values) > 1 or not (value.isascii() and value.isdigit()):
        raise invalid(
            f"Inference-Header-Content-Length must be one whole number, not '{', '.join(values)[:64]}'"
        )
    if len(value) > 12:  # what is merely too large, the decoder refuses, in the lane's words
        raise invalid(
            f"Inference-Header-Content-Length is {value[:32]}, but the body has {body_bytes} bytes"
        )
    return int(value)


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _response(reply: Reply) -> Response:
    response = Response(reply.body, reply.status)
    response.raw_headers = reply.all_headers()
    return response


async def on_headrace_error(request: Request, error: Exception) -> Response:
    """Errors of ours, and whatever else escaped a handler."""
    return _response(error_reply(error))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in our words."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        code, text = ErrorCode.METHOD_NOT_ALLOWED, f"{request.method} is not allowed here"
    elif error.status_code == 404:
        code, text = ErrorCode.NOT_FOUND, f"no such path: {request.url.path[:256]}"
    else:
        return _json({"error": error.detail}, error.status_code)
    response = _response(error_reply(HeadraceError(code, text)))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


class ClosingWhenDraining:
    """ASGI middleware: while the server drains, every answer asks the caller to connect anew elsewhere."""

    def __init__(self, app: Any, front: HttpFront) -> None:
        self._app = app
        self._front = front

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_closing(message: Any) -> None:
            if message["type"] == "http.response.start" and self._front.draining:
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_closing)


def build(
    front: HttpFront,
    info: ServerInfo,
    control: RepositoryControl,
    pusher: FeaturePusher | None = None,
) -> Any:
    """The application. Without ``pusher`` it knows no features."""
    # In this order: "stats" is no model.
    routes = [*RepositoryRoutes(control).routes(), *DataRoutes(front, info).routes()]
    if pusher is not None:
        routes += PushRoutes(pusher, front).routes()
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: on_http_exception,
            HeadraceError: on_headrace_error,
            Exception: on_headrace_error,
        },
    )
    app.router.redirect_slashes = False
    if front.access is None:
        return ClosingWhenDraining(app, front)
    return ClosingWhenDraining(KeysRequired(app, front.access, front), front)
