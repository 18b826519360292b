"""How a session of ONNX Runtime is opened.

Decides options and execution providers. It must never fall back to another device than the one
asked for, and never let the runtime write to stdout or stderr.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from backends.errors import ModelLoadError
from backends.model_settings import OnnxRuntimeSettings
from backends.onnx_errors import one_line

_CUT_SHORT = (
    "Protobuf parsing failed",
    "No graph was found",
    "Missing opset in the model",
    "can not be read in full",
    "External data path does not exist",
)
"""What the runtime says about a model, or weights in a file beside it, of which a part is missing."""

FATAL = 4
"""ONNX Runtime's log severity: its errors reach us as exceptions, and printing them as well would
let one caller with bad input flood stderr.
"""

_OPTIMIZATION = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

_EXECUTION_MODES = {
    "sequential": onnxruntime.ExecutionMode.ORT_SEQUENTIAL,
    "parallel": onnxruntime.ExecutionMode.ORT_PARALLEL,
}


def open_session(
    path: Path, settings: OnnxRuntimeSettings, intra_op_threads: int
) -> onnxruntime.InferenceSession:
    """A session on the wanted device and no other. Raises ``ModelLoadError`` with the reason."""
    _refuse_unreadable(path)
    onnxruntime.set_default_logger_severity(FATAL)
    onnxruntime.disable_telemetry_events()
    providers = choose_providers(settings, onnxruntime.get_available_providers())
    try:
        options = _session_options(settings, intra_op_threads)
        weights = _read_weights(path)
        options.add_external_initializers_from_files_in_memory(
            list(weights), list(weights.values()), [len(one) for one in weights.values()]
        )
        # Without enable_fallback=0 the wrapper prints to stdout and retries on the CPU.
        session = onnxruntime.InferenceSession(
            path, options, providers=providers, enable_fallback=0
        )
    except Exception as error:
        reason = one_line(error)
        if any(sign in reason for sign in _CUT_SHORT):
            reason = f"{reason.rstrip('.')}. It is not complete; perhaps it is still being copied"
        raise ModelLoadError(f"ONNX Runtime cannot open it: {reason}") from error
    if settings.device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise ModelLoadError(
            'device = "cuda", but ONNX Runtime could not start CUDA and would run on: '
            f"{', '.join(session.get_providers())}. Check device_id = {settings.device_id} and the "
            f"driver, CUDA and cuDNN that onnxruntime-gpu {onnxruntime.__version__} needs"
        )
    return session


def choose_providers(
    settings: OnnxRuntimeSettings, available: Sequence[str]
) -> list[str | tuple[str, dict[str, str]]]:
    """The execution providers for the wanted device, or ``ModelLoadError`` without it."""
    if settings.device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        raise ModelLoadError(
            'device = "cuda" needs ONNX Runtime with CUDA: pip uninstall onnxruntime, then '
            "pip install 'headrace[gpu]', which brings onnxruntime-gpu in place of onnxruntime. "
            f"This one offers only: {', '.join(available)}"
        )
    # CUDA has no kernel for some operators: those nodes, and no others, run on the CPU.
    return [
        ("CUDAExecutionProvider", {"device_id": str(settings.device_id)}),
        "CPUExecutionProvider",
    ]


def _refuse_unreadable(path: Path) -> None:
    """ONNX Runtime would call an empty file a model without a graph."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error.strerror}") from error
    if empty:
        raise ModelLoadError(f"{path.name} is empty; perhaps it is still being copied")


def _read_weights(path: Path) -> dict[str, bytes]:
    """The files that the model keeps its weights in, by the names that it has for them.

    Left alone, the runtime maps such files for as long as the session lives: who overwrites one
    would change the answers of a model that is served, and who shortens one would end the process.
    """
    beside = [file for file in path.parent.rglob("*") if file != path and file.is_file()]
    named = path.read_bytes() if beside else b""
    names = {file.relative_to(path.parent).as_posix(): file for file in beside}
    return {name: file.read_bytes() for name, file in names.items() if name.encode() in named}


def _session_options(
    settings: OnnxRuntimeSettings, intra_op_threads: int
) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = settings.intra_op_threads or intra_op_threads
    options.inter_op_num_threads = settings.inter_op_threads
    options.graph_optimization_level = _OPTIMIZATION[settings.graph_optimization]
    options.execution_mode = _EXECUTION_MODES[settings.execution_mode]
    options.enable_cpu_mem_arena = settings.memory_arena
    options.enable_mem_pattern = settings.memory_pattern
    spinning = "1" if settings.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    for key, value in settings.session_config.items():
        options.add_session_config_entry(key, value)
    return options
