"""ONNX models answered by ONNX Runtime.

Decides what a session's inputs and outputs are called in the protocol, and how arrays of this
process become them. It must never let an exception of the runtime pass through: every failure
leaves as one of the errors in ``errors.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from backends.errors import InvalidModelInput, ModelLoadError, ModelRunError
from backends.model_settings import OnnxRuntimeSettings
from backends.onnx_errors import one_line
from backends.onnx_session import FATAL, open_session
from backends.onnx_tensors import (
    BFLOAT16_ELEMENT,
    bfloat16_of_ort_value,
    bytes_of_text,
    ort_value_of_bfloat16,
    text_of_bytes,
)
from backends.ports import DimensionNames
from backends.signature import Signature, Tensor, TensorSpec

ConvertT = TypeVar("ConvertT")

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}

_ENCODE: dict[str, Callable[[Tensor, str], Any]] = {
    "BYTES": text_of_bytes,
    "BF16": ort_value_of_bfloat16,
}

_DECODE: dict[str, Callable[[Tensor], Tensor]] = {"BYTES": bytes_of_text}


class OnnxBackend:
    """One opened ONNX file. Make it with ``OnnxBackend.open``."""

    platform = "onnxruntime_onnx"

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        signature: Signature,
        dimension_names: DimensionNames,
    ) -> None:
        self.signature = signature
        self.dimension_names = dimension_names
        self._session = session
        self._input_names = [spec.name for spec in signature.inputs]
        self._output_names = [spec.name for spec in signature.outputs]
        # Shared by all runs: they only read it, and a run without one makes its own in 0.9 µs.
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = FATAL
        self._encoders = _codecs(signature.inputs, _ENCODE)
        self._decoders = _codecs(signature.outputs, _DECODE)
        self._gives_bfloat16 = any(spec.datatype == "BF16" for spec in signature.outputs)
        self._converts = bool(self._encoders or self._decoders or self._gives_bfloat16)

    @classmethod
    def open(
        cls, path: Path, settings: OnnxRuntimeSettings, *, intra_op_threads: int
    ) -> OnnxBackend:
        """Load the file at ``path``; ``intra_op_threads`` is used where the settings name none.

        Raises ``ModelLoadError`` with the reason, for whatever the file holds.
        """
        session = open_session(path, settings, intra_op_threads)
        signature, names = _read_signature(session)
        _refuse_unservable(signature)
        return cls(session, signature, names)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """See ``Backend.run``."""
        try:
            if self._converts:
                return self._run_converted(inputs)
            feed = dict(zip(self._input_names, inputs, strict=True))
            outputs: list[Tensor] = self._session.run(self._output_names, feed, self._run_options)
            return outputs
        except InvalidModelInput:
            raise
        except InvalidArgument as error:
            raise InvalidModelInput(one_line(error)) from error
        except Exception as error:
            if len(inputs) != len(self._input_names):
                takes = f"the model takes {len(self._input_names)} inputs, not {len(inputs)}"
                raise InvalidModelInput(takes) from error
            raise ModelRunError(one_line(error)) from error

    def _run_converted(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        feed: dict[str, Any] = dict(zip(self._input_names, inputs, strict=True))
        for index, name, encode in self._encoders:
            feed[name] = encode(inputs[index], name)
        if self._gives_bfloat16:
            outputs = self._run_to_ort_values(feed)
        else:
            outputs = self._session.run(self._output_names, feed, self._run_options)
        for index, _, decode in self._decoders:
            outputs[index] = decode(outputs[index])
        return outputs

    def _run_to_ort_values(self, feed: dict[str, Any]) -> list[Tensor]:
        """The plain ``run`` can give no bfloat16, because NumPy has none."""
        from_numpy = onnxruntime.OrtValue.ortvalue_from_numpy
        values = {
            name: value if isinstance(value, onnxruntime.OrtValue) else from_numpy(value)
            for name, value in feed.items()
        }
        outputs = self._session.run_with_ort_values(self._output_names, values, self._run_options)
        return [
            bfloat16_of_ort_value(value)
            if value.element_type() == BFLOAT16_ELEMENT
            else value.numpy()
            for value in outputs
        ]


def _read_signature(session: onnxruntime.InferenceSession) -> tuple[Signature, DimensionNames]:
    inputs = [_read_tensor("input", meta) for meta in session.get_inputs()]
    outputs = [_read_tensor("output", meta) for meta in session.get_outputs()]
    signature = Signature(tuple(spec for spec, _ in inputs), tuple(spec for spec, _ in outputs))
    names = DimensionNames(
        tuple(names for _, names in inputs), tuple(names for _, names in outputs)
    )
    return signature, names


def _read_tensor(role: str, meta: onnxruntime.NodeArg) -> tuple[TensorSpec, tuple[str | None, ...]]:
    datatype = _DATATYPES.get(meta.type)
    if datatype is None:
        raise ModelLoadError(
            f"{role} {meta.name!r} is a {meta.type}, which the protocol cannot carry"
        )
    # A dimension is its size, its name, or None when it has neither.
    shape = tuple(size if isinstance(size, int) else -1 for size in meta.shape)
    names = tuple(size if isinstance(size, str) else None for size in meta.shape)
    return TensorSpec(meta.name, datatype, shape), names


def _refuse_unservable(signature: Signature) -> None:
    """The one combination that ONNX Runtime's Python interface cannot run."""
    texts = [spec.name for spec in signature.inputs if spec.datatype == "BYTES"]
    bfloat16s = [spec.name for spec in signature.outputs if spec.datatype == "BF16"]
    if texts and bfloat16s:
        raise ModelLoadError(
            f"string input {texts[0]!r} and bfloat16 output {bfloat16s[0]!r} "
            "cannot be combined in one model"
        )


def _codecs(
    specs: tuple[TensorSpec, ...], conversions: Mapping[str, ConvertT]
) -> tuple[tuple[int, str, ConvertT], ...]:
    """Where, and how, tensors must change their form between this process and the runtime."""
    return tuple(
        (index, spec.name, conversions[spec.datatype])
        for index, spec in enumerate(specs)
        if spec.datatype in conversions
    )
