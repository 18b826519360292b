from __future__ import annotations

from typing import Any

import pytest

from gateway.edge.metadata import model_config, model_metadata, server_metadata
from gateway.messages import LaneFacts
from tests.support.servables import StubServable, stub, tensor_spec

INPUTS = [tensor_spec("x", "FP32", -1, 4), tensor_spec("names", "BYTES", -1, 1)]
OUTPUTS = [tensor_spec("y", "INT64", -1)]


def servable(max_batch_size: int = 64, platform: str = "onnxruntime_onnx") -> StubServable:
    one = stub(INPUTS, OUTPUTS, name="m", max_batch_size=max_batch_size)
    one.platform = platform
    return one


def config(**settings: Any) -> dict[str, Any]:
    return model_config(servable(**settings), LaneFacts(instances=3, max_queue_delay_us=500))


def test_the_server_names_itself_and_what_it_can_do() -> None:
    assert server_metadata("1.2.3") == {
        "name": "headrace",
        "version": "1.2.3",
        "extensions": [
            "binary_tensor_data",
            "model_configuration",
            "model_repository",
            "statistics",
        ],
    }


@pytest.mark.parametrize("max_batch_size", [0, 64])
def test_metadata_shows_whole_shapes_with_the_batch_dimension(max_batch_size: int) -> None:
    assert model_metadata(servable(max_batch_size), ["1", "2"]) == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "names", "datatype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
    }


def test_the_configuration_of_a_batched_model_leaves_the_batch_dimension_out() -> None:
    """As Triton writes it: the batch size stands in max_batch_size."""
    shown = config()
    assert shown["max_batch_size"] == 64
    assert shown["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [4]},
        {"name": "names", "data_type": "TYPE_STRING", "dims": [1]},
    ]
    assert shown["output"] == [{"name": "y", "data_type": "TYPE_INT64", "dims": []}]
    assert shown["dynamic_batching"] == {"max_queue_delay_microseconds": 500}


def test_the_configuration_of_an_unbatched_model_shows_whole_shapes() -> None:
    shown = config(max_batch_size=0)
    assert shown["max_batch_size"] == 0
    assert [one["dims"] for one in shown["input"]] == [[-1, 4], [-1, 1]]
    assert "dynamic_batching" not in shown


def test_the_configuration_shows_how_many_instances_run() -> None:
    assert config()["instance_group"] == [{"name": "m", "kind": "KIND_CPU", "count": 3}]


@pytest.mark.parametrize(
    ("platform", "backend"), [("onnxruntime_onnx", "onnxruntime"), ("echo", "echo")]
)
def test_the_backend_follows_from_the_platform(platform: str, backend: str) -> None:
    shown = config(platform=platform)
    assert (shown["platform"], shown["backend"]) == (platform, backend)
