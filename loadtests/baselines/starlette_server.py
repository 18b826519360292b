"""The HTTP baseline: an async Starlette route on uvicorn, as a good engineer writes by hand.

uvloop, httptools, orjson, no access log, one ONNX Runtime thread, the model run inline. It must
never do less than a correct answer needs, nor more than a careful person would write.
"""

import socket
from pathlib import Path

import numpy as np
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtests import models
from loadtests.baselines import announce


def application(repository: Path) -> Starlette:
    """One infer route over all models of the repository."""
    sessions = {
        name: models.session(models.model_path(repository, name))
        for name in (models.TINY, models.HEAVY)
    }

    async def infer(request: Request) -> Response:
        name = request.path_params["model"]
        session = sessions.get(name)
        if session is None:
            return _json({"error": f"unknown model {name!r}"}, 404)
        try:
            document = orjson.loads(await request.body())
            feeds = {
                tensor["name"]: np.array(tensor["data"], np.float32).reshape(tensor["shape"])
                for tensor in document["inputs"]
            }
        except (KeyError, TypeError, ValueError) as problem:
            return _json({"error": str(problem)}, 400)
        (output,) = session.run(None, feeds)
        tensor = {
            "name": models.OUTPUT,
            "shape": output.shape,
            "datatype": "FP32",
            "data": output.ravel(),
        }
        return _json({"model_name": name, "model_version": "1", "outputs": [tensor]}, 200)

    return Starlette(routes=[Route("/v2/models/{model}/infer", infer, methods=["POST"])])


def _json(document: dict[str, object], status: int) -> Response:
    content = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, media_type="application/json")


class AnnouncingServer(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        announce.ready("http", self.servers[0].sockets[0].getsockname()[1])


if __name__ == "__main__":
    app = application(announce.repository_argument(__doc__ or ""))
    config = uvicorn.Config(
        app, port=0, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    AnnouncingServer(config).run()
