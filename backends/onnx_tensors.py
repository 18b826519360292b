"""Tensors that ONNX Runtime's Python interface holds in another form than this process does.

Strings are ``bytes`` here and ``str`` there; bfloat16 is raw 16 bits here and an ``OrtValue``
there. Decides only how one becomes the other. It must never copy more than once or change a value.
"""

from __future__ import annotations

import ctypes
import math

import numpy as np
import onnxruntime

from backends.errors import InvalidModelInput
from backends.signature import Tensor

BFLOAT16_ELEMENT = 16
"""``TensorProto.BFLOAT16`` of the ONNX standard."""


def text_of_bytes(tensor: Tensor, name: str) -> Tensor:
    """``bytes`` elements as ``str``, or ``InvalidModelInput`` where one is not UTF-8."""
    decoded: Tensor = np.empty(tensor.shape, np.object_)
    try:
        decoded.reshape(-1)[:] = [element.decode() for element in tensor.reshape(-1).tolist()]
    except UnicodeDecodeError as error:
        raise InvalidModelInput(
            f"input {name!r} holds a string that is not UTF-8: {error.reason}"
        ) from error
    except AttributeError as error:
        raise InvalidModelInput(f"input {name!r} must hold only byte strings") from error
    return decoded


def bytes_of_text(tensor: Tensor) -> Tensor:
    """``str`` elements as ``bytes``, in place: the array comes fresh from the runtime."""
    flat = tensor.reshape(-1)
    flat[:] = [element.encode() for element in flat.tolist()]
    return tensor


def ort_value_of_bfloat16(tensor: Tensor, name: str) -> onnxruntime.OrtValue:
    """Raw bfloat16 bits as a value of the runtime that shares their memory and keeps them alive."""
    if tensor.dtype != np.uint16:
        raise InvalidModelInput(
            f"input {name!r} is BF16 and must come as raw 16 bits, not as {tensor.dtype}"
        )
    bits = np.asarray(tensor, order="C")
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, BFLOAT16_ELEMENT)


def bfloat16_of_ort_value(value: onnxruntime.OrtValue) -> Tensor:
    """Raw bfloat16 bits of a value in main memory.

    The address is the only way out that the runtime offers: its NumPy and DLPack exports both
    refuse bfloat16.
    """
    shape = tuple(value.shape())
    bits = np.empty(shape, np.uint16)
    if math.prod(shape):
        ctypes.memmove(bits.ctypes.data, value.data_ptr(), bits.nbytes)
    return bits
