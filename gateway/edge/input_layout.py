"""Which inputs a model takes from a caller, and how each lies in memory.

Decides whether a (name, datatype, shape) that a caller declares fits the model's client-facing
signature, and remembers the answers: a shape that was checked once costs one dictionary look-up
(0.3 µs instead of 3 µs). Both wires share these rules, so that REST and gRPC refuse the same
requests with the same sentences. It must never look at tensor data, and never remember a request
that it refused: what a stranger sends must not grow the table.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import takewhile
from math import prod
from typing import Any

import msgspec
import numpy as np

from backends.signature import Tensor, TensorSpec
from gateway.errors import HeadraceError, invalid
from gateway.ports import Servable

TABLE_KEY = "inputs"
"""Where a servable's table stands in its ``reply_templates``."""

MAX_KNOWN = 1024
"""Remembered shapes per servable, since variable dimensions could make it grow for ever."""

MAX_BYTES = 2**63 - 1
_LONGEST_QUOTE = 120

# struct's native formats: a C cast for floats (out of range becomes an infinity, without NumPy's
# warning) and a range check for integers. The halves have no JSON or typed protobuf form.
PACK_FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}

BYTES_LENGTH_SIZE = 4
"""Bytes that stand before each BYTES element on the wire: its length, little-endian."""


class InputLayout(msgspec.Struct, frozen=True, gc=False):
    """One input as a caller declares it, found valid for the model."""

    index: int
    """Place in the signature's inputs."""
    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    count: int
    """Elements."""
    nbytes: int
    """Exact bytes on the wire; for BYTES the least, since the elements' lengths come with them."""
    rows: int
    """Extent of the batch dimension; 1 for a model that is not batched."""
    is_plain: bool
    """Every bit pattern of the right length is a valid tensor: all datatypes but BOOL and BYTES."""
    pack: Callable[..., bytes] | None
    """Python values to the tensor's bytes; None for BYTES and for the halves."""


class InputTable:
    """What one servable takes, with the layouts that callers used so far."""

    __slots__ = ("_batched", "_inputs", "_names", "count", "known", "model")

    def __init__(self, target: Servable) -> None:
        signature = target.signature
        self.model = target.name
        self.count = len(signature.inputs)
        self.known: dict[tuple[str, str, tuple[int, ...]], InputLayout] = {}
        self._inputs = signature.inputs
        self._names = signature.input_index
        self._batched = target.max_batch_size > 0

    def check(self, name: str, datatype: str, shape: tuple[int, ...]) -> InputLayout:
        """The layout of a declared input, remembered for the next caller.

        Raises INVALID_ARGUMENT when the model has no such input, or takes it otherwise.
        """
        index = self._names.get(name)
        if index is None:
            raise invalid(
                f"{quote(name)} is not an input of model {quote(self.model)}, "
                f"which takes {_listed(self._names)}"
            )
        spec = self._inputs[index]
        if datatype != spec.datatype:
            raise invalid(
                f"input {quote(name)} has datatype {quote(datatype)}; "
                f"model {quote(self.model)} expects {spec.datatype}"
            )
        self._check_shape(spec, shape)
        count = prod(shape)
        # A zero extent hides the others from the product, and NumPy multiplies them all the same.
        if prod(extent for extent in shape if extent) * spec.dtype.itemsize > MAX_BYTES:
            raise invalid(f"input {quote(name)}: shape {quote_shape(shape)} has too many elements")
        itemsize = BYTES_LENGTH_SIZE if datatype == "BYTES" else spec.dtype.itemsize
        code = PACK_FORMATS.get(datatype)
        layout = InputLayout(
            index=index,
            name=spec.name,
            datatype=spec.datatype,
            shape=shape,
            dtype=spec.dtype,
            count=count,
            nbytes=count * itemsize,
            rows=shape[0] if self._batched else 1,
            is_plain=datatype not in ("BOOL", "BYTES"),
            pack=struct.Struct(f"{count}{code}").pack if code else None,
        )
        if len(self.known) >= MAX_KNOWN:
            self.known.clear()
        self.known[spec.name, spec.datatype, shape] = layout
        return layout

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        if any(extent < 0 for extent in shape):
            raise invalid(
                f"input {quote(spec.name)} has shape {quote_shape(shape)}: "
                "a dimension must not be negative"
            )
        if len(shape) != len(spec.shape) or any(
            want not in (-1, extent) for want, extent in zip(spec.shape, shape, strict=True)
        ):
            raise invalid(
                f"input {quote(spec.name)} has shape {quote_shape(shape)}; "
                f"model {quote(self.model)} expects {list(spec.shape)}"
                + (", where -1 is any size" if -1 in spec.shape else "")
            )
        if self._batched and shape[0] < 1:
            raise invalid(
                f"input {quote(spec.name)} has shape {quote_shape(shape)}: "
                "the batch dimension, which is the first, must be at least 1"
            )

    def arrange(
        self, layouts: Sequence[InputLayout], tensors: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], int]:
        """The tensors in the signature's order, and the rows that all of them have.

        Raises INVALID_ARGUMENT when an input is missing or named twice, or when the rows differ.
        """
        if self.count == len(layouts) == 1:
            return (tensors[0],), layouts[0].rows
        if len(layouts) != self.count or len({layout.index for layout in layouts}) != self.count:
            raise self.wrong_names([layout.name for layout in layouts])
        rows = layouts[0].rows if layouts else 1
        placed = list(tensors)
        for layout, tensor in zip(layouts, tensors, strict=True):
            if layout.rows != rows:
                raise invalid(
                    f"input {quote(layout.name)} has {layout.rows} rows and "
                    f"input {quote(layouts[0].name)} has {rows}: "
                    "all inputs of a request must have the same batch dimension"
                )
            placed[layout.index] = tensor
        return tuple(placed), rows

    def wrong_names(self, names: Sequence[str]) -> HeadraceError:
        """Why these are not exactly the model's inputs: one is unknown, named twice, or missing."""
        seen: set[str] = set()
        for name in names:
            if name not in self._names:
                return invalid(
                    f"{quote(name)} is not an input of model {quote(self.model)}, "
                    f"which takes {_listed(self._names)}"
                )
            if name in seen:
                return invalid(f"input {quote(name)} is given more than once")
            seen.add(name)
        missing = [name for name in self._names if name not in seen]
        return invalid(
            f"the request gives {len(seen)} of the {self.count} inputs that model "
            f"{quote(self.model)} takes; missing: {_listed(missing)}"
        )


def input_table(target: Servable) -> InputTable:
    """The servable's table, made at the first request."""
    table = target.reply_templates.get(TABLE_KEY)
    if table is None:
        table = target.reply_templates[TABLE_KEY] = InputTable(target)
    return table


def slots(shape: tuple[int, ...]) -> int:
    """The most places that nested data of this shape can have, empty lists included."""
    return prod(takewhile(bool, shape))


def quote(name: str) -> str:
    """A caller's string for a message: on one line, and never longer than a glance."""
    return repr(name if len(name) <= _LONGEST_QUOTE else name[:_LONGEST_QUOTE] + "…")


def quote_shape(shape: Sequence[int]) -> str:
    """A caller's shape for a message, cut where it stops being of use."""
    text = ", ".join(map(_short, shape[:16]))
    return f"[{text}{', …' if len(shape) > 16 else ''}]"


def _short(extent: int) -> str:
    # str() of a huge integer is slow and may be refused outright.
    return str(extent) if -(10**20) < extent < 10**20 else "(a huge number)"


def _listed(names: Any) -> str:
    return ", ".join(map(quote, names)) or "none"
