"""The gRPC baseline: `grpc.aio` on uvloop with generated messages, calling the same ONNX model.

Raw tensors are read without a copy and the model runs inline. It must never be used to stand
for all of gRPC in Python: it is what the official asyncio server costs.
"""

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import uvloop
from tritonclient.grpc import (  # type: ignore[import-untyped, unused-ignore]
    service_pb2,
    service_pb2_grpc,
)

from loadtests import models
from loadtests.baselines import announce

_DTYPES = {"FP32": np.dtype("<f4")}


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc, unused-ignore]
    """ModelInfer over all models of the repository."""

    def __init__(self, repository: Path) -> None:
        self._sessions = {
            name: models.session(models.model_path(repository, name))
            for name in (models.TINY, models.HEAVY)
        }

    async def ModelInfer(  # noqa: N802 - the name is the protocol's
        self, request: Any, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> Any:
        """One request, one run."""
        session = self._sessions.get(request.model_name)
        if session is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        if len(request.raw_input_contents) != len(request.inputs):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "raw inputs are missing")
        feeds = {
            tensor.name: np.frombuffer(raw, _DTYPES[tensor.datatype]).reshape(tensor.shape)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        (output,) = session.run(None, feeds)
        reply = service_pb2.ModelInferResponse(
            model_name=request.model_name, model_version="1", id=request.id
        )
        reply.outputs.add(name=models.OUTPUT, datatype="FP32", shape=output.shape)
        reply.raw_output_contents.append(output.tobytes())
        return reply


async def _serve(repository: Path) -> None:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(repository), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    announce.ready("grpc", port)
    await stopping.wait()
    await server.stop(1)


if __name__ == "__main__":
    uvloop.run(_serve(announce.repository_argument(__doc__ or "")))
