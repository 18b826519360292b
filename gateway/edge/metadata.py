"""What the server says about itself and its models, in the protocol's own words.

Plain dictionaries, which the HTTP side writes as JSON and the gRPC side parses into messages, so that both say the
same. It must never look at a live request.
"""

from __future__ import annotations

from typing import Any

from backends.signature import TensorSpec
from gateway.messages import LaneFacts
from gateway.ports import Servable

SERVER_NAME = "headrace"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")

_KINDS = {"cpu": "KIND_CPU", "cuda": "KIND_GPU"}
_BACKENDS = {"onnxruntime_onnx": "onnxruntime"}


def server_metadata(version: str) -> dict[str, Any]:
    """``GET /v2`` and ``ServerMetadata``."""
    return {"name": SERVER_NAME, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(servable: Servable, versions: list[str]) -> dict[str, Any]:
    """``GET /v2/models/{m}`` and ``ModelMetadata``; shapes hold the batch dimension as -1."""
    return {
        "name": servable.name,
        "versions": versions,
        "platform": servable.platform,
        "inputs": [_tensor(spec) for spec in servable.signature.inputs],
        "outputs": [_tensor(spec) for spec in servable.signature.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def model_config(servable: Servable, facts: LaneFacts) -> dict[str, Any]:
    """The part of Triton's ``ModelConfig`` that means something here (its ``config`` extension, JSON form)."""
    batched = servable.max_batch_size > 0
    config: dict[str, Any] = {
        "name": servable.name,
        "platform": servable.platform,
        "backend": _BACKENDS.get(servable.platform, servable.platform),
        "max_batch_size": servable.max_batch_size,
        "input": [_config_tensor(spec, batched) for spec in servable.signature.inputs],
        "output": [_config_tensor(spec, batched) for spec in servable.signature.outputs],
        "instance_group": [
            {"name": servable.name, "kind": _KINDS[facts.device], "count": facts.instances}
        ],
        "default_model_filename": facts.model_file,
    }
    if batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": facts.max_queue_delay_us}
    return config


def _config_tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = spec.shape[1:] if batched else spec.shape
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(dims)}
