from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2

from backends.errors import ModelLoadError
from backends.model_settings import ModelSettings, parse_model_settings
from backends.pbtxt import read_outline
from backends.signature import Signature, TensorSpec
from backends.triton_config import (
    FIELDS_READ,
    MAX_FILE_BYTES,
    TritonConfig,
    check_signature,
    parse_triton_config,
    read_triton_config,
)
from protos.inference import ModelConfig

THEIRS: Descriptor = model_config_pb2.ModelConfig.DESCRIPTOR

# As model repositories have them, with a comment and both ways of writing lists.
WHOLE = """
name: "m"
platform: "onnxruntime_onnx"  # the older of the two words
backend: "onnxruntime"
max_batch_size: 16
input [
  { name: "x" data_type: TYPE_FP32 dims: [ 32 ] },
  { name: "s" data_type: TYPE_STRING dims: -1 }
]
output { name: "y" data_type: TYPE_INT64 dims: 1 }
version_policy: { specific { versions: [ 1, 3 ] } }
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 500
  priority_levels: 5
  default_priority_level: 4
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 250000
    allow_timeout_override: true
    max_queue_size: 100
  }
}
optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
default_model_filename: "net.onnx"
"""

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 32)), TensorSpec("s", "BYTES", (-1, -1))),
    (TensorSpec("y", "INT64", (-1, 1)),),
)


SPECIFIC = "version_policy { specific { versions: 3 } }"
ON_GPU = "instance_group { kind: KIND_GPU gpus: 2 }"


def parse(text: str) -> TritonConfig:
    return parse_triton_config(text, model="m", source="models/m/config.pbtxt")


def refusal(text: str) -> str:
    with pytest.raises(ModelLoadError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("models/m/config.pbtxt: ")
    return message.removeprefix("models/m/config.pbtxt: ")


def settings(pbtxt: str, toml: str = "") -> ModelSettings:
    return parse_model_settings(toml, source="model.toml", below=parse(pbtxt).sections)


def test_a_whole_config_becomes_settings() -> None:
    found = settings(WHOLE)
    assert found.batching.mode == "auto"
    assert found.batching.max_batch_size == 16
    assert found.batching.max_queue_delay_us == 500
    assert found.batching.max_queue_requests == 100
    assert found.deadline.default_timeout_ms == 250.0
    assert (found.priority.levels, found.priority.default) == (5, 4)
    assert (found.versions.policy, found.versions.specific) == ("specific", (1, 3))
    assert found.execution.instances == 2
    assert found.onnxruntime == ModelSettings().onnxruntime
    config = parse(WHOLE)
    assert config.model_file == "net.onnx"
    assert [(one.name, one.datatype, one.dims) for one in config.inputs] == [
        ("x", "FP32", (32,)),
        ("s", "BYTES", (-1,)),
    ]
    assert check_signature(config, SIGNATURE) == ()


def test_everything_else_is_listed_as_ignored() -> None:
    assert parse(WHOLE).ignored == (
        "dynamic_batching.preferred_batch_size",
        "dynamic_batching.default_queue_policy.allow_timeout_override",
        "optimization",
        "parameters",
    )


def test_an_empty_config_changes_nothing() -> None:
    assert parse("") == TritonConfig({})
    assert settings("") == ModelSettings()


@pytest.mark.parametrize("path", sorted(FIELDS_READ))
def test_every_field_that_is_read_is_one_of_tritons_and_ours(path: str) -> None:
    for descriptor in (THEIRS, ModelConfig.DESCRIPTOR):
        *groups, last = path.split(".")
        for name in groups:
            descriptor = descriptor.fields_by_name[name].message_type
        assert last in descriptor.fields_by_name


def test_no_field_of_tritons_looks_like_a_slip_of_the_pen() -> None:
    others = sorted(set(THEIRS.fields_by_name) - {path.partition(".")[0] for path in FIELDS_READ})
    assert len(others) > 10
    text = "\n".join(f"{name} {{}}" for name in others)
    assert read_outline(text, ModelConfig(), FIELDS_READ, source="").ignored == tuple(others)


@pytest.mark.parametrize(
    ("text", "section", "expected"),
    [
        ("max_batch_size: 0", "batching", {"mode": "never"}),
        ("max_batch_size: 1", "batching", {"max_batch_size": 1}),
        (
            "max_batch_size: 100000",
            "batching",
            {"max_batch_size": 100_000, "max_queue_rows": 100_000},
        ),
        ("dynamic_batching { }", "batching", None),
        ("dynamic_batching { default_queue_policy { max_queue_size: 0 } }", "batching", None),
        ("dynamic_batching { priority_levels: 4 }", "priority", {"levels": 4, "default": 2}),
        ("dynamic_batching { priority_levels: 1 }", "priority", {"levels": 1, "default": 1}),
        ("version_policy { all { } }", "versions", {"policy": "all"}),
        ("version_policy: { latest: { num_versions: 2 } }", "versions", {"policy": "latest", "latest": 2}),
        ("instance_group { kind: KIND_AUTO }", "execution", {"instances": 1}),
        ("instance_group { kind: KIND_AUTO }", "onnxruntime", None),
        ("instance_group { count: 2 } instance_group { count: 3 }", "execution", {"instances": 5}),
        ("instance_group { kind: KIND_CPU }", "onnxruntime", {"device": "cpu"}),
        (
            "instance_group { kind: KIND_GPU gpus: [ 3 ] }",
            "onnxruntime",
            {"device": "cuda", "device_id": 3},
        ),
        ("instance_group { kind: KIND_GPU }", "onnxruntime", {"device": "cuda", "device_id": 0}),
    ],
)  # fmt: skip
def test_single_fields(text: str, section: str, expected: dict[str, Any] | None) -> None:
    assert parse(text).sections.get(section) == expected
    assert parse(text).ignored == ()


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("instance_group { kind: KIND_GPU gpus: [ 1, 2 ] }", "instance_group.gpus (only GPU 1"),
        ("instance_group { kind: KIND_CPU gpus: [ 1 ] }", "instance_group.gpus (the kind is not"),
        (
            "instance_group { kind: KIND_CPU } instance_group { kind: KIND_GPU }",
            "instance_group (those that are not on a GPU)",
        ),
        ("instance_group { kind: KIND_CPU passive: true }", "instance_group.passive"),
        ("dynamic_batching { default_priority_level: 1 }", "default_priority_level (priority_"),
        ("dynamic_batching { preserve_ordering: true }", "dynamic_batching.preserve_ordering"),
        ("input { name: 'x' allow_ragged_batch: true }", "input.allow_ragged_batch"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy"),
        ("max_batchsize: 8", "max_batchsize (perhaps meant as max_batch_size)"),
    ],
)
def test_what_has_no_effect_is_named(text: str, ignored: str) -> None:
    [named] = parse(text).ignored
    assert ignored in named


def test_a_timeout_that_only_delays_is_no_deadline() -> None:
    policy = "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 9 }"
    config = parse(f"dynamic_batching {{ {policy} }}")
    assert "deadline" not in config.sections
    assert len(config.ignored) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: 'other'", "`name` is 'other', but the folder is 'm'; they must be equal"),
        ("backend: 'python'", "`backend` is 'python', but only \"onnxruntime\" can be served"),
        ("platform: 'ensemble'", "`platform` is 'ensemble', but only \"onnxruntime_onnx\""),
        ("sequence_batching { }", "`sequence_batching` cannot be served"),
        ("ensemble_scheduling { }", "`ensemble_scheduling` cannot be served"),
        ("max_batch_size: -1", "`max_batch_size` must be 0 or more"),
        ("default_model_filename: '../x.onnx'", "must be a plain file name, not '../x.onnx'"),
        ("default_model_filename: '.x'", "must be a plain file name"),
        ("instance_group { count: -1 }", "`instance_group.count`: expected `int` >= 1"),
        ("instance_group { count: 2000 }", "`instance_group.count`: expected `int` <= 1024"),
        (
            "instance_group { kind: KIND_GPU gpus: [ -1 ] }",
            "`instance_group.gpus`: expected `int` >= 0",
        ),
        ("version_policy { latest { } }", "`version_policy.latest.num_versions`: expected `int`"),
        ("version_policy { specific { } }", "`version_policy.specific.versions`: policy"),
        (
            "version_policy { specific { versions: 0 } }",
            "`version_policy.specific.versions`: expected `int` >= 1",
        ),
        (
            "dynamic_batching { priority_levels: 17 }",
            "`dynamic_batching.priority_levels`: expected `int` <= 16",
        ),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
            "`dynamic_batching.default_priority_level`: `default` must be between 1 and `levels` (2)",
        ),
        (
            "dynamic_batching { max_queue_delay_microseconds: 60000001 }",
            "`dynamic_batching.max_queue_delay_microseconds`: expected `int` <= 60000000",
        ),
        (
            "dynamic_batching { default_queue_policy { default_timeout_microseconds: 86400000001 } }",
            "default_timeout_microseconds`: must be at most one day",
        ),
        ("input { data_type: TYPE_FP99 }", "line 1, column 20: "),
    ],
)
def test_what_cannot_be_is_refused_in_the_words_of_the_file(text: str, said: str) -> None:
    assert said in refusal(text)


@pytest.mark.parametrize(
    ("pbtxt", "toml", "expected"),
    [
        ("max_batch_size: 8", "[batching]\nmax_batch_size = 4", {"max_batch_size": 4}),
        ("max_batch_size: 8", "[batching]\nmode = 'always'", {"max_batch_size": 8, "mode": "always"}),
        ("max_batch_size: 8", "[batching]\nmax_queue_rows = 16", {"max_batch_size": 8, "max_queue_rows": 16}),
        ("max_batch_size: 0", "[batching]\nmax_batch_size = 4", {"max_batch_size": 4, "mode": "auto"}),
        ("max_batch_size: 0", "[batching]\nmode = 'auto'", {"mode": "auto"}),
        ("max_batch_size: 0", "[batching]\nmax_queue_requests = 4", {"mode": "never"}),
        (SPECIFIC, "[versions]\nlatest = 2", {"policy": "latest", "latest": 2, "specific": ()}),
        (SPECIFIC, "[priority]\ndefault = 1", {"default": 1, "levels": 3}),
        ("dynamic_batching { priority_levels: 9 }", "[priority]\ndefault = 1", {"levels": 3}),
        (ON_GPU, "[onnxruntime]\ndevice = 'cpu'", {"device": "cpu", "device_id": 0}),
        (ON_GPU, "[onnxruntime]\nspinning = true", {"device": "cuda", "device_id": 2, "spinning": True}),
    ],
)  # fmt: skip
def test_model_toml_wins(pbtxt: str, toml: str, expected: dict[str, Any]) -> None:
    found = getattr(settings(pbtxt, toml), toml.partition("]")[0].removeprefix("["))
    assert {key: getattr(found, key) for key in expected} == expected


def test_a_contradiction_between_the_two_names_both() -> None:
    with pytest.raises(ModelLoadError) as caught:
        settings("max_batch_size: 100", "[batching]\nmax_queue_rows = 80")
    assert str(caught.value).startswith("model.toml: `batching`: `max_queue_rows` must not be")
    assert str(caught.value).endswith("(with what config.pbtxt says)")


def test_a_mistake_in_model_toml_is_its_own() -> None:
    for toml in ("batching = 3", "[batching]\nmax_batch_size = 0"):
        with pytest.raises(ModelLoadError) as caught:
            settings("max_batch_size: 100", toml)
        assert "config.pbtxt" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("input { name: 'z' }", "the model has no input 'z'; it has 'x', 's'"),
        ("output { name: 'x' }", "the model has no output 'x'; it has 'y'"),
        ("input { name: 'x' data_type: TYPE_FP16 }", "datatype FP16 there, but FP32 in the model"),
        ("input { name: 's' data_type: TYPE_FP32 }", "datatype FP32 there, but BYTES in the model"),
        ("input { name: 'x' dims: [ 32 ] }", "has dims [32] there, but the model has [-1, 32]"),
        ("input { name: 'x' dims: [ -1, 31 ] }", "has dims [-1, 31] there, but"),
        ("input { name: 'x' dims: [ -1, -1 ] }", "has dims [-1, -1] there, but"),
        (
            "max_batch_size: 4 input { name: 'x' dims: [ -1, 32 ] }",
            "[-1, 32]; with max_batch_size above 0, dims leave the first dimension out",
        ),
    ],
)
def test_a_config_of_another_model_is_refused(text: str, said: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        check_signature(parse(text), SIGNATURE)
    assert str(caught.value).startswith("config.pbtxt: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "input { name: 'x' data_type: TYPE_FP32 dims: [ -1, 32 ] }",
        "max_batch_size: 4 input { name: 'x' dims: 32 } output { name: 'y' dims: 1 }",
        "max_batch_size: 4 input { name: 's' dims: -1 }",
        "max_batch_size: 4 input { name: 'x' dims: [ 4, 8 ] reshape { shape: 32 } }",
        "",
    ],
)
def test_a_config_of_this_model_is_accepted(text: str) -> None:
    assert check_signature(parse(text), SIGNATURE) == ()


def test_a_scalar_has_no_dims_to_leave_one_out_of() -> None:
    scalar = Signature((TensorSpec("x", "FP32", ()),), ())
    assert check_signature(parse("input { name: 'x' }"), scalar) == ()
    with pytest.raises(ModelLoadError, match="has dims"):
        check_signature(parse("max_batch_size: 4 input { name: 'x' dims: 1 }"), scalar)


def test_a_size_that_only_the_config_fixes_is_not_enforced_and_named() -> None:
    config = parse("max_batch_size: 4 input { name: 's' dims: 7 }")
    assert check_signature(config, SIGNATURE) == (
        "input.dims of 's' (the model takes other sizes too)",
    )


def test_a_missing_file_is_no_config(tmp_path: Path) -> None:
    assert read_triton_config(tmp_path / "config.pbtxt", model="m") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# caf\xe9", "not UTF-8 text (byte 5)"),
        (b"#" * (MAX_FILE_BYTES + 1), "larger than 1000000 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        read_triton_config(path, model="m")
    assert said in str(caught.value)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot be read: Is a directory"):
        read_triton_config(tmp_path, model="m")
