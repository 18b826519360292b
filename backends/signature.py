"""What a model takes and gives: names, datatypes, shapes. Pure values, no I/O.

Decides which Open Inference Protocol datatypes exist and how each lies in memory. It must never
open a model, import a runtime, or know how a tensor travels on a wire.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

# Open Inference Protocol datatype -> NumPy dtype of the array that carries it inside the process.
# BF16 travels as its raw 16 bits, because NumPy has no bfloat16; BYTES as Python ``bytes`` objects.
NUMPY_DTYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),
    "BYTES": np.dtype(np.object_),
}

Tensor = npt.NDArray[np.generic]
"""One tensor of a request or an answer: C-contiguous, of the dtype that NUMPY_DTYPES names."""


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model.

    ``shape`` holds -1 for every dimension that may vary. The batch dimension is part of it: a
    batched model that takes 32 floats a row has shape ``(-1, 32)``.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The NumPy dtype that carries this tensor inside the process."""
        return NUMPY_DTYPES[self.datatype]


class Signature:
    """The inputs and outputs of a model, in the model's own order, with look-ups made once."""

    __slots__ = ("all_outputs", "input_index", "inputs", "output_index", "outputs")

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.input_index = {spec.name: i for i, spec in enumerate(inputs)}
        self.output_index = {spec.name: i for i, spec in enumerate(outputs)}
        self.all_outputs = tuple(range(len(outputs)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature):
            return NotImplemented
        return self.inputs == other.inputs and self.outputs == other.outputs

    def __hash__(self) -> int:
        return hash((self.inputs, self.outputs))

    def __repr__(self) -> str:
        return f"Signature(inputs={self.inputs!r}, outputs={self.outputs!r})"
