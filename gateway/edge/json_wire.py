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
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec

from backends.signature import Signature, Tensor
from gateway.edge.input_layout import InputLayout
from gateway.edge.tensor_bytes import Buffer
from gateway.edge.tensor_json import data_type, read_text, read_values
from gateway.errors import HeadraceError, invalid
from gateway.messages import ContextValue

ONE_PASS_BYTES = 256 * 1024
"""Largest JSON part that is read in one pass: at worst 4 MiB of values, whatever its shapes say."""

TensorReader: TypeAlias = Callable[[InputLayout, Any], Tensor]

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
DataT = TypeVar("DataT")
ParametersT = TypeVar("ParametersT", bound="RequestParameters")


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


class FeatureParameters(RequestParameters, gc=False):
    """Parameters of a request to a model with features; ``parameters_type`` adds the model's own."""

    feature_status: bool | None = None


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


class WireRequest(msgspec.Struct, Generic[DataT, ParametersT]):
    """The JSON part of an infer request."""

    inputs: list[WireInput[DataT]]
    id: str | None = None
    outputs: list[WireOutput] | None = None
    parameters: ParametersT | None = None


AnyRequest: TypeAlias = WireRequest[Any, Any]
_NULL = b"null"


@lru_cache(maxsize=64)  # versions of a model want the same
def parameters_type(names: tuple[str, ...]) -> tuple[type[FeatureParameters], tuple[str, ...]]:
    """The parameters of a request to a model that wants those of these names, and the attribute for each.

    A wanted parameter may be what JSON calls a string, number, boolean or null.
    """
    attributes = {name: name for name in FeatureParameters.__struct_fields__}
    more = {name: f"wanted_{place}" for place, name in enumerate(names) if name not in attributes}
    made: Any = msgspec.defstruct(
        "WantedParameters",
        [(attribute, ContextValue, None) for attribute in more.values()],
        bases=(FeatureParameters,),
        rename={attribute: name for name, attribute in more.items()},
        gc=False,
    )
    attributes |= more
    return made, tuple([attributes[name] for name in names])


def one_pass_reader(
    signature: Signature, parameters: type[RequestParameters] = RequestParameters
) -> Callable[[Buffer], AnyRequest] | None:
    """The decoder for a model all of whose inputs can carry the same type of ``data``, or None.

    It raises what msgspec raises; ``read_patiently`` then finds out and says why.
    """
    specs = signature.inputs
    kind = data_type(
        frozenset(spec.datatype for spec in specs), frozenset(len(spec.shape) for spec in specs)
    )
    if kind is None:
        return None
    made: Any = WireRequest[kind | None, parameters]  # type: ignore[valid-type]
    return msgspec.json.Decoder(made).decode


class PatientReader:
    """Reads any request with parameters of one type, and says what is wrong with it."""

    __slots__ = ("_read_text_first", "_type_of_tokens")

    def __init__(self, parameters: type[RequestParameters] = RequestParameters) -> None:
        # msgspec cannot be asked for "text or nothing": a null comes as its text.
        text_first: Any = WireRequest[msgspec.Raw, parameters]  # type: ignore[valid-type]
        self._read_text_first: Callable[[Buffer], AnyRequest] = msgspec.json.Decoder(
            text_first
        ).decode
        self._type_of_tokens: Any = WireRequest[Any, parameters]  # type: ignore[valid-type]

    def __call__(self, text: Buffer) -> tuple[AnyRequest, TensorReader]:
        """The request, and the function that makes tensors of its ``data``.

        Raises INVALID_ARGUMENT with the place of the fault.
        """
        try:
            request = self._read_text_first(text)
        except msgspec.ValidationError as error:
            raise invalid(f"the request does not follow the protocol: {error}") from None
        except RecursionError:
            raise _too_deep() from None
        except UnicodeDecodeError as error:
            raise invalid(f"the request's JSON is not UTF-8: {error.reason}") from None
        except msgspec.DecodeError as error:
            data = bytes(text)
            if b"NaN" in data or b"Infinity" in data:
                return _read_tokens(data, self._type_of_tokens), read_values
            problem = str(error).removeprefix("JSON is malformed: ")
            raise invalid(f"the request's JSON is malformed: {problem}") from None
        for item in request.inputs:
            if item.data is not None and len(item.data) == len(_NULL) and bytes(item.data) == _NULL:
                item.data = None
        return request, read_text


read_patiently = PatientReader()


def _read_tokens(text: bytes, wanted: Any) -> AnyRequest:
    try:
        request: AnyRequest = msgspec.convert(json.loads(text.decode()), wanted)
        # Unlike msgspec, it lets halves of surrogate pairs through, which no reply or key can carry.
        (request.id or "").encode()
        for value in msgspec.structs.astuple(request.parameters) if request.parameters else ():
            if isinstance(value, str):
                value.encode()
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
