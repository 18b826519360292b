"""The binary tensor extension of the REST protocol: raw bytes behind the JSON, or instead of it.

Decides which bytes of a body belong to which input, and what a body without any JSON means. It must
never let an input reach beyond the body, or leave bytes behind that nobody asked for.
"""

from __future__ import annotations

from math import prod

from backends.signature import Tensor
from gateway.edge.input_layout import InputLayout, InputTable, quote
from gateway.edge.tensor_bytes import Buffer, read_tensor
from gateway.errors import HeadraceError, invalid
from gateway.ports import Servable

HEADER = "Inference-Header-Content-Length"


def split_header(body: Buffer, header_length: int) -> Buffer:
    """The JSON part of a body: its first ``header_length`` bytes.

    Raises INVALID_ARGUMENT when the body is not that long.
    """
    if not 0 <= header_length <= len(body):
        raise invalid(
            f"{HEADER} is {header_length}; the body has {len(body)} bytes, so 0 to {len(body)} fit"
        )
    return body if header_length == len(body) else memoryview(body)[:header_length]


def take_tensor(layout: InputLayout, body: Buffer, offset: int, size: int) -> Tensor:
    """The tensor of the next ``size`` bytes.

    Raises INVALID_ARGUMENT when the body ends before, and as ``read_tensor``.
    """
    if size > len(body) - offset:
        raise invalid(
            f"input {quote(layout.name)} has binary_data_size {size}, and "
            f"{len(body) - offset} bytes are left behind the JSON; {HEADER} must be the length of "
            "the JSON and the body must hold every binary tensor"
        )
    return read_tensor(layout, body, offset, size)


def leftover(body: Buffer, offset: int) -> HeadraceError:
    """Why a body must not go on after its last tensor."""
    return invalid(
        f"the body has {len(body) - offset} bytes more than its JSON and its binary_data_size "
        "parameters account for"
    )


def decode_raw_body(target: Servable, table: InputTable, body: Buffer) -> tuple[Tensor, int]:
    """The one tensor that a body without JSON is (header length 0), and its rows.

    The batch dimension is 1, and one other dimension may follow from the number of bytes. A BYTES
    model must take one element, which is the whole body without a length before it. Raises
    INVALID_ARGUMENT when the model's signature does not tell the shape, or the bytes do not fit it.
    """
    specs = target.signature.inputs
    if len(specs) != 1:
        raise _refused(target, f"needs a model with one input, and this one takes {len(specs)}")
    spec = specs[0]
    shape = list(spec.shape)
    if target.max_batch_size > 0:
        shape[0] = 1
    if spec.datatype == "BYTES":
        if any(extent != 1 for extent in shape):
            raise _refused(
                target,
                f"needs the shape [1] of BYTES input {quote(spec.name)}, which has {shape}",
            )
        layout = table.check(spec.name, spec.datatype, tuple(shape))
        element = len(body).to_bytes(4, "little") + bytes(body)
        return read_tensor(layout, element, 0, len(element)), layout.rows
    if shape.count(-1) > 1:
        raise _refused(
            target,
            f"cannot tell the shape of input {quote(spec.name)}, where more than one dimension "
            f"varies: {shape}",
        )
    if -1 in shape:
        step = prod(extent for extent in shape if extent != -1) * spec.dtype.itemsize
        if not step or len(body) % step:
            raise _refused(
                target,
                f"of {len(body)} bytes does not fill {spec.datatype} input {quote(spec.name)} of "
                f"shape {shape}, which takes a multiple of {step}",
            )
        shape[shape.index(-1)] = len(body) // step
    layout = table.check(spec.name, spec.datatype, tuple(shape))
    return read_tensor(layout, body, 0, len(body)), layout.rows


def _refused(target: Servable, problem: str) -> HeadraceError:
    return invalid(f"a raw binary request ({HEADER} 0) to model {quote(target.name)} {problem}")
