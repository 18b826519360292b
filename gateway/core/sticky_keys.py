"""Where a plan's sticky key stands in a request, and which bytes it is.

A key is the same bytes whether it comes as a header, as a parameter or in a tensor, and as text or as a number. This
module must never make a key up: a request without one has none here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from backends.signature import Tensor
from gateway.messages import PredictRequest

StickyKey: TypeAlias = Callable[[PredictRequest], bytes | None]
"""The key of a request, None without one. The context is still as the codec found it."""


def key_in_header(place: int) -> StickyKey:
    """``place`` in the request's context, where text stands that was decoded as Latin-1: the bytes on the wire."""

    def find(request: PredictRequest) -> bytes | None:
        value: Any = request.context[place]
        return value.encode("latin-1") if value else None

    return find


def key_in_parameter(place: int) -> StickyKey:
    """``place`` in the request's context, where any JSON scalar may stand."""

    def find(request: PredictRequest) -> bytes | None:
        value = request.context[place]
        if value.__class__ is str:
            return bytes_of_text(value) or None
        return None if value is None else _WRITERS[value.__class__](value)

    return find


def key_in_input(index: int) -> StickyKey:
    """The first element of an input: a request of several rows goes to one version as a whole."""

    def find(request: PredictRequest) -> bytes | None:
        tensor: Tensor = request.inputs[index]
        try:
            value = tensor.item(0)
        except IndexError:  # there is none
            return None
        return _WRITERS[value.__class__](value)

    return find


def bytes_of_text(text: str) -> bytes:
    """UTF-8; halves of surrogate pairs, which JSON can smuggle in, are keys too."""
    return text.encode() if text.isascii() else text.encode("utf-8", "surrogatepass")


def _bytes_of_float(value: float) -> bytes:
    return b"%d" % value if value.is_integer() else _write_fraction(value)


_write_fraction = msgspec.json.Encoder().encode
"""The shortest decimal that reads back the same, as JSON writes it; no number is ``null``."""
_WRITERS: dict[type, Callable[[Any], bytes | None]] = {
    str: lambda value: bytes_of_text(value) or None,
    bytes: lambda value: value or None,
    bool: lambda value: b"true" if value else b"false",
    int: lambda value: b"%d" % value,
    float: _bytes_of_float,
}
"""By the types that JSON, protobuf and NumPy's ``item`` have for scalars."""
