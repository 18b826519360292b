"""What every client may ask besides predictions: health, readiness, metadata, configuration."""

from __future__ import annotations

import pytest

from headrace import __version__
from tests.support.protocol_callers import Caller, CallError


def test_the_server_is_live_and_ready(caller: Caller) -> None:
    assert caller.query("is_server_live") is True
    assert caller.query("is_server_ready") is True


def test_the_server_names_itself_and_its_extensions(caller: Caller) -> None:
    assert caller.query("get_server_metadata") == {
        "name": "headrace",
        "version": __version__,
        "extensions": [
            "binary_tensor_data",
            "model_configuration",
            "model_repository",
            "statistics",
        ],
    }


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [
        ("linear", "", True),
        ("linear", "1", True),
        ("linear", "2", False),
        ("versioned", "1", True),
        ("versioned", "3", True),
        ("versioned", "2", False),
        ("broken", "", False),
        ("nobody", "", False),
    ],
)
def test_a_model_says_whether_it_is_ready(
    caller: Caller, model: str, version: str, ready: bool
) -> None:
    assert caller.query("is_model_ready", model, version) is ready


def test_metadata_tells_names_datatypes_and_shapes(caller: Caller) -> None:
    found = caller.query("get_model_metadata", "simple")
    assert (found["name"], found["versions"]) == ("simple", ["1"])
    assert found["platform"] == "onnxruntime_onnx"
    assert _tensors(found["inputs"]) == [
        ("INPUT0", "INT32", [-1, 16]),
        ("INPUT1", "INT32", [-1, 16]),
    ]
    assert _tensors(found["outputs"]) == [
        ("OUTPUT0", "INT32", [-1, 16]),
        ("OUTPUT1", "INT32", [-1, 16]),
    ]


def test_metadata_of_one_version_lists_all_versions(caller: Caller) -> None:
    found = caller.query("get_model_metadata", "versioned", "1")
    assert found["versions"] == ["1", "3"]


def _tensors(listed: list[dict[str, object]]) -> list[tuple[object, object, list[int]]]:
    return [
        (one["name"], one["datatype"], [int(extent) for extent in one["shape"]])  # type: ignore[attr-defined]
        for one in listed
    ]


def test_config_is_what_triton_tools_read(caller: Caller) -> None:
    found = caller.query("get_model_config", "simple")
    config = found if caller.is_http else found["config"]
    assert config["name"] == "simple"
    assert config["max_batch_size"] == 64
    assert config["backend"] == "onnxruntime"
    first = config["input"][0]
    assert (first["name"], first["data_type"]) == ("INPUT0", "TYPE_INT32")
    assert [int(extent) for extent in first["dims"]] == [16], "without the batch dimension"
    assert "dynamic_batching" in config


def test_config_of_an_unbatched_model_keeps_every_dimension(caller: Caller) -> None:
    found = caller.query("get_model_config", "unbatched")
    config = found if caller.is_http else found["config"]
    assert int(config.get("max_batch_size", 0)) == 0
    assert [int(extent) for extent in config["input"][0]["dims"]] == [-1, 4]


@pytest.mark.parametrize("method", ["get_model_metadata", "get_model_config"])
@pytest.mark.parametrize(
    ("model", "version", "http", "grpc", "words"),
    [
        ("nobody", "", "404", "NOT_FOUND", "unknown model 'nobody'"),
        ("versioned", "2", "404", "NOT_FOUND", "loaded versions: 1, 3"),
        ("broken", "", "503", "UNAVAILABLE", "Protobuf parsing failed"),
    ],
)
def test_what_cannot_be_described_says_why(
    caller: Caller, method: str, model: str, version: str, http: str, grpc: str, words: str
) -> None:
    with pytest.raises(CallError) as failed:
        caller.query(method, model, version)
    assert failed.value.status == (http if caller.is_http else grpc)
    assert words in failed.value.message
