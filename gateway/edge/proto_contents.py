"""Typed tensor contents of protobuf messages: ``InferTensorContents`` to tensors.

Decides which of its lists carries which datatype. It must never accept numbers in another list than
the datatype's own, and never loop over them in Python.
"""

from __future__ import annotations

from backends.signature import Tensor
from gateway.edge.input_layout import InputLayout, quote
from gateway.edge.tensor_bytes import element_tensor
from gateway.edge.tensor_values import tensor_of, wrong_count
from gateway.errors import invalid
from protos.inference import InferTensorContents

CONTENTS_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_contents(layout: InputLayout, contents: InferTensorContents) -> Tensor:
    """The tensor of typed contents, in row-major order.

    Raises INVALID_ARGUMENT for a list of another datatype, another number of elements, integers out
    of the datatype's range, and for FP16 and BF16, which have no list.
    """
    wanted = CONTENTS_FIELDS.get(layout.datatype)
    if wanted is None:
        raise invalid(
            f"input {quote(layout.name)}: {layout.datatype} has no typed contents; "
            "send it in raw_input_contents"
        )
    for field, _ in contents.ListFields():
        if field.name != wanted:
            raise invalid(
                f"input {quote(layout.name)} has {field.name}; {layout.datatype} belongs into "
                f"{wanted}"
            )
    values = getattr(contents, wanted)[:]
    if layout.datatype != "BYTES":
        return tensor_of(layout, values)
    if len(values) != layout.count:
        raise wrong_count(layout, len(values))
    return element_tensor(layout, values)
