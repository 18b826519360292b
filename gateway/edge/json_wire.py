"""The JSON of an infer request, as types for msgspec, and the ways to read it.

Decides what must be there, of which JSON type, and which fields exist; the fields that it does not
name are skipped unread, as the protocol wants. It must never judge a tensor against a model.

There are three readers, each slower and more patient than the one before:

1. *one pass*: ``data`` decodes straight into the kind of list that the model's inputs need: 2.0 µs
   for 32 floats to their tensor, where text first takes 3.0 µs, and orjson with a check of the
   types afterwards 3.0 µs. Only for small bodies, since a list may be larger than its tensor.
2. *text first*: ``data`` stays JSON text until its input is known. Can say what is wrong with it.
3. *tokens*: the standard library's parser, which knows NaN, Infinity and -Infinity.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec

from backends.signature import Signature, Tensor
from gateway.edge.input_layout import InputLayout
from gateway.edge.tensor_bytes import Buffer
from gateway.edge.tensor_json import data_type, read_text, read_values
from gateway.errors import HeadraceError, invalid

ONE_PASS_BYTES = 256 * 1024
"""Largest JSON part that is read in one pass: at worst 4 MiB of values, whatever its shapes say."""

TensorReader: TypeAlias = Callable[[InputLayout, Any], Tensor]

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
DataT = TypeVar("DataT")


class InputParameters(msgspec.Struct, gc=False):
    """Parameters of one input."""

    binary_data_size: _Count | None = None
    shared_memory_region: Any = None


class OutputParameters(msgspec.Struct, gc=False):
    """Parameters of one wanted output."""

    binary_data: bool | None = None
    classification: Any = None
    shared_memory_region: Any = None


class RequestParameters(msgspec.Struct, gc=False):
    """Parameters of the request."""

    timeout: _Count | None = None
    priority: _Count | None = None
    binary_data_output: bool | None = None
    sequence_id: _Count | str | None = None
    sequence_start: bool | None = None
    sequence_end: bool | None = None


class WireInput(msgspec.Struct, Generic[DataT]):
    """One input; what ``data`` is depends on the reader, and None or an absent one is no data."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: DataT = None  # type: ignore[assignment]
    parameters: InputParameters | None = None


class WireOutput(msgspec.Struct):
    """One wanted output."""

    name: str
    parameters: OutputParameters | None = None


class WireRequest(msgspec.Struct, Generic[DataT]):
    """The JSON part of an infer request."""

    inputs: list[WireInput[DataT]]
    id: str | None = None
    outputs: list[WireOutput] | None = None
    parameters: RequestParameters | None = None


# msgspec cannot be asked for "text or nothing": a null comes as its text.
_read_text_first: Callable[[Buffer], WireRequest[Any]] = msgspec.json.Decoder(
    WireRequest[msgspec.Raw]
).decode
_NULL = b"null"


def one_pass_reader(signature: Signature) -> Callable[[Buffer], WireRequest[Any]] | None:
    """The decoder for a model all of whose inputs can carry the same type of ``data``, or None.

    It raises what msgspec raises; ``read_patiently`` then finds out and says why.
    """
    specs = signature.inputs
    kind = data_type(
        frozenset(spec.datatype for spec in specs), frozenset(len(spec.shape) for spec in specs)
    )
    if kind is None:
        return None
    return msgspec.json.Decoder(WireRequest[kind | None]).decode  # type: ignore[valid-type]


def read_patiently(text: Buffer) -> tuple[WireRequest[Any], TensorReader]:
    """The request, and the function that makes tensors of its ``data``.

    Raises INVALID_ARGUMENT with the place of the fault.
    """
    try:
        request = _read_text_first(text)
    except msgspec.ValidationError as error:
        raise invalid(f"the request does not follow the protocol: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError as error:
        raise invalid(f"the request's JSON is not UTF-8: {error.reason}") from None
    except msgspec.DecodeError as error:
        data = bytes(text)
        if b"NaN" in data or b"Infinity" in data:
            return _read_tokens(data), read_values
        problem = str(error).removeprefix("JSON is malformed: ")
        raise invalid(f"the request's JSON is malformed: {problem}") from None
    for item in request.inputs:
        if item.data is not None and len(item.data) == len(_NULL) and bytes(item.data) == _NULL:
            item.data = None
    return request, read_text


def _read_tokens(text: bytes) -> WireRequest[Any]:
    try:
        request = msgspec.convert(json.loads(text.decode()), WireRequest[Any])
        # Unlike msgspec, it lets halves of surrogate pairs through, which no reply can carry.
        (request.id or "").encode()
    except RecursionError:
        raise _too_deep() from None
    except msgspec.ValidationError as error:
        raise invalid(f"the request does not follow the protocol: {error}") from None
    except UnicodeError as error:
        raise invalid(f"the request's JSON is not UTF-8: {error}") from None
    except ValueError as error:  # malformed, or an integer of thousands of digits
        raise invalid(f"the request's JSON is malformed: {error}") from None
    return request


def _too_deep() -> HeadraceError:
    return invalid("the request's JSON is nested too deeply")
