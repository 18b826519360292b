from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from backends.errors import InvalidModelInput, ModelLoadError, ModelRunError
from backends.model_settings import OnnxRuntimeSettings, parse_model_settings
from backends.onnx import OnnxBackend
from backends.onnx_errors import LONGEST_MESSAGE, one_line
from backends.onnx_session import choose_providers, open_session
from backends.ports import DimensionNames
from backends.signature import Signature, TensorSpec
from tests.support import models

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], OnnxBackend]:
    def open_model(model: bytes) -> OnnxBackend:
        path = models.write_model(tmp_path, "m", model)
        return OnnxBackend.open(path, OnnxRuntimeSettings(), intra_op_threads=1)

    return open_model


Opened = Callable[[bytes], OnnxBackend]


def test_the_signature_is_read_from_the_file(opened: Opened) -> None:
    backend = opened(models.multi_output(features=4))
    assert backend.platform == "onnxruntime_onnx"
    assert backend.signature == Signature(
        (TensorSpec("x", "FP32", (-1, 4)),),
        (
            TensorSpec("total", "FP32", (-1, 1)),
            TensorSpec("label", "INT64", (-1,)),
            TensorSpec("positive", "BOOL", (-1, 1)),
        ),
    )


def test_names_of_dimensions_are_kept_beside_it(opened: Opened) -> None:
    backend = opened(models.identity("FP32", ("n", None, 3, "width")))
    assert backend.signature.inputs[0].shape == (-1, -1, 3, -1)
    names = (("n", None, None, "width"),)
    assert backend.dimension_names == DimensionNames(names, names)


def test_several_outputs_are_computed(opened: Opened) -> None:
    x = np.array([[1, 2, 3, 4], [0, -9, 0, 0]], np.float32)
    total, label, positive = opened(models.multi_output()).run([x])
    assert total.tolist() == [[10], [-9]]
    assert label.tolist() == [3, 0]
    assert positive.tolist() == [[True], [False]]


def test_weights_may_lie_beside_the_model(tmp_path: Path) -> None:
    path = models.write_model(tmp_path, "m", models.linear())
    proto = onnx.load(path)
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (path.parent / "weights.bin").exists()
    backend = OnnxBackend.open(path, OnnxRuntimeSettings(), intra_op_threads=1)
    assert backend.run([np.ones((2, 32), np.float32)])[0].shape == (2, 1)


# ---- files that cannot be served
# -------------------------------------------------------------------

BROKEN = {
    "empty": (b"", "model.onnx is empty; perhaps it is still being copied"),
    "half": (models.linear()[:100], "ONNX Runtime cannot open it: Protobuf parsing failed."),
    "text": (b"not a model", "ONNX Runtime cannot open it: Protobuf parsing failed."),
    "noise": (np.random.default_rng(0).bytes(1000), "ONNX Runtime cannot open it: "),
    "operator": (models.unknown_operator(), "No Op registered for NoSuchOperator"),
    "opset": (models.future_opset(), "Opset 999 is under development"),
    "weights": (models.missing_external_data(), "External data path does not exist"),
    "sequence": (
        models.sequence_output(),
        "output 'y' is a seq(tensor(float)), which the protocol cannot carry",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_file_is_explained_and_nothing_is_printed(
    broken: str, opened: Opened, capfd: pytest.CaptureFixture[str]
) -> None:
    content, reason = BROKEN[broken]
    with pytest.raises(ModelLoadError) as caught:
        opened(content)
    message = str(caught.value)
    assert reason in message
    assert "onnxruntime_src" not in message
    assert "[ONNXRuntimeError]" not in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"model\.onnx cannot be read: No such file"):
        OnnxBackend.open(tmp_path / "model.onnx", OnnxRuntimeSettings(), intra_op_threads=1)


def test_strings_in_and_bfloat16_out_are_refused(opened: Opened) -> None:
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in "ab"]
    text, half = ("BYTES", ("n",)), ("BF16", ("n",))
    model = models.graph(nodes, {"a": text, "b": half}, {"a_out": text, "b_out": half})
    with pytest.raises(ModelLoadError, match="string input 'a' and bfloat16 output 'b_out'"):
        opened(model)


# ---- runs that fail
# --------------------------------------------------------------------------------


def test_data_that_the_model_refuses_is_the_callers_fault(
    opened: Opened, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidModelInput) as caught:
        opened(models.embedding(vocabulary=100)).run([np.array([[100]])])
    assert str(caught.value) == (
        "Gather node: indices element out of data bounds, "
        "idx=100 must be within the inclusive range [-100,99]"
    )
    assert capfd.readouterr() == ("", ""), "a caller could flood the log"


def test_a_failing_operator_is_the_models_fault(
    opened: Opened, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelRunError) as caught:
        opened(models.reshape_to(2)).run([np.zeros((3, 4), np.float32)])
    message = str(caught.value)
    assert message.startswith("Reshape node: ")
    assert "Input shape:{3,4}, requested shape:{2,4}" in message
    assert "onnxruntime" not in message
    assert capfd.readouterr() == ("", "")


def test_a_string_that_is_not_utf_8_names_its_input(opened: Opened) -> None:
    backend = opened(models.identity("BYTES", ("n",)))
    with pytest.raises(InvalidModelInput, match="input 'x' holds a string that is not UTF-8"):
        backend.run([np.array([b"fine", b"\xff"], np.object_)])


def test_a_string_tensor_holds_bytes(opened: Opened) -> None:
    backend = opened(models.identity("BYTES", ("n",)))
    with pytest.raises(InvalidModelInput, match="input 'x' must hold only byte strings"):
        backend.run([np.array([b"fine", 7], np.object_)])


# ---- bfloat16
# --------------------------------------------------------------------------------------


def test_bfloat16_may_be_mixed_with_other_datatypes(opened: Opened) -> None:
    ones = np.full((2, 4), 0x3F80, np.uint16)
    [converted] = opened(models.bfloat16_to_float()).run([ones])
    assert converted.dtype == np.float32
    assert converted.tolist() == np.ones((2, 4)).tolist()


def test_bfloat16_outputs_may_stand_beside_others(opened: Opened) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.BFLOAT16),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    outputs = {"half": ("BF16", ("n", 2)), "same": ("FP32", ("n", 2))}
    backend = opened(models.graph(nodes, {"x": ("FP32", ("n", 2))}, outputs))
    half, same = backend.run([np.array([[1, 2]], np.float32)])
    assert half.tolist() == [[0x3F80, 0x4000]]
    assert same.tolist() == [[1, 2]]


# ---- options and devices
# ---------------------------------------------------------------------------


def test_options_reach_the_runtime(tmp_path: Path) -> None:
    path = models.write_model(tmp_path, "m", models.linear())
    toml = """
        [onnxruntime]
        intra_op_threads = 3
        inter_op_threads = 2
        graph_optimization = "basic"
        execution_mode = "parallel"
        spinning = true
        memory_arena = false
        memory_pattern = false
        session_config = { "session.set_denormal_as_zero" = "1" }
        """
    settings = parse_model_settings(toml, source="model.toml").onnxruntime
    options = open_session(path, settings, intra_op_threads=1).get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.graph_optimization_level == (onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert options.enable_cpu_mem_arena is False
    assert options.enable_mem_pattern is False
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"


def test_defaults_do_not_spin_and_take_the_callers_threads(tmp_path: Path) -> None:
    path = models.write_model(tmp_path, "m", models.linear())
    options = open_session(path, OnnxRuntimeSettings(), intra_op_threads=2).get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


def test_the_cpu_is_used_alone() -> None:
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert choose_providers(OnnxRuntimeSettings(), available) == ["CPUExecutionProvider"]


def test_cuda_is_asked_for_by_device() -> None:
    available = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert choose_providers(OnnxRuntimeSettings(device="cuda", device_id=1), available) == [
        ("CUDAExecutionProvider", {"device_id": "1"}),
        "CPUExecutionProvider",
    ]


def test_without_cuda_a_cuda_model_says_what_to_install() -> None:
    with pytest.raises(ModelLoadError) as caught:
        choose_providers(OnnxRuntimeSettings(device="cuda"), ["A", "CPUExecutionProvider"])
    assert "pip install 'headrace[gpu]'" in str(caught.value)
    assert "onnxruntime-gpu in place of onnxruntime" in str(caught.value)
    assert str(caught.value).endswith("This one offers only: A, CPUExecutionProvider")


@pytest.mark.skipif(HAS_CUDA, reason="needs a runtime without CUDA")
def test_cuda_that_cannot_start_is_never_replaced_by_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.write_model(tmp_path, "m", models.linear())
    claimed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ModelLoadError, match="could not start CUDA and would run on: CPU"):
            OnnxBackend.open(path, OnnxRuntimeSettings(device="cuda"), intra_op_threads=1)


@pytest.mark.gpu
def test_a_cuda_model_answers(tmp_path: Path) -> None:
    path = models.write_model(tmp_path, "m", models.linear())
    on_cpu = OnnxBackend.open(path, OnnxRuntimeSettings(), intra_op_threads=1)
    on_gpu = OnnxBackend.open(path, OnnxRuntimeSettings(device="cuda"), intra_op_threads=1)
    x = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    assert np.allclose(on_gpu.run([x])[0], on_cpu.run([x])[0], rtol=1e-3, atol=1e-3)


# ---- the wording of errors
# -------------------------------------------------------------------------


WORDINGS = {
    "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from /a b/m.onnx failed:Bad.": "Bad.",
    "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model.cc:256 "
    "onnxruntime::Model::Model(onnx::ModelProto&&, const std::function<void (int)>&) "
    "Unsupported model IR version: 99\n": "Unsupported model IR version: 99",
    "Error: tensorprotoutils.cc:619 ValidateExternalDataPath External data is missing (x)": (
        "Error: External data is missing (x)"
    ),
    "Non-zero status code returned while running Add node. Name:'layer/add' "
    "Status Message: 2 by 3": "Add node 'layer/add': 2 by 3",
    "Invalid rank for input: x Got: 1 Expected: 2 Please fix either the inputs/outputs or the "
    "model.": "Invalid rank for input: x Got: 1 Expected: 2",
    "": "ValueError",
}


@pytest.mark.parametrize(("theirs", "ours"), WORDINGS.items())
def test_noise_is_cut_from_errors(theirs: str, ours: str) -> None:
    assert one_line(ValueError(theirs)) == ours


def test_endless_errors_are_cut() -> None:
    assert len(one_line(ValueError("x" * 10_000))) == LONGEST_MESSAGE
