"""V2 REST: an infer request's body to a ``PredictRequest``, a ``Prediction`` to the reply's body.

Decides which outputs travel as JSON and which as bytes behind it, by the caller's wishes. Every
fault of a request becomes INVALID_ARGUMENT (or UNIMPLEMENTED) with a sentence that says what to
change; it must never let a library's exception through, nor loop over elements in Python.

What can be known per model is computed once and kept in the servable's ``reply_templates``: the
decoder for its inputs, the shapes that were valid before, and the parts of its replies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import orjson

from backends.signature import Signature, Tensor
from gateway.edge.binary_codec import decode_raw_body, leftover, split_header, take_tensor
from gateway.edge.input_layout import InputLayout, InputTable, input_table, quote
from gateway.edge.json_reply import reply_template
from gateway.edge.json_wire import (
    ONE_PASS_BYTES,
    AnyRequest,
    FeatureParameters,
    PatientReader,
    RequestParameters,
    TensorReader,
    WireInput,
    WireOutput,
    one_pass_reader,
    parameters_type,
    read_patiently,
)
from gateway.edge.request_context import HeaderFields, WantedContext
from gateway.edge.request_options import (
    deadline_s,
    refuse_output_options,
    refuse_sequence,
    refuse_shared_memory,
    unknown_output,
)
from gateway.edge.tensor_bytes import Buffer
from gateway.edge.tensor_json import json_problem
from gateway.edge.tensor_values import tensor_of
from gateway.errors import invalid
from gateway.messages import ContextValue, Prediction, PredictRequest
from gateway.ports import ContextNames, Servable

MAX_TENSOR_BYTES = 64 * 1024 * 1024
"""Default bound of a tensor that comes as JSON, in bytes of the tensor (Triton bounds this too)."""

_DECODER_KEY = "json_request"


class OutputEncoding(msgspec.Struct, frozen=True):
    """How an HTTP caller wants the answer."""

    binary: tuple[bool, ...]
    """For each wanted output of the request, whether it travels as bytes; empty when none does."""


_ALL_JSON = OutputEncoding(())


def decode_infer(
    body: Buffer,
    header_length: int | None,
    target: Servable,
    version: str,
    now: float,
    headers: HeaderFields = (),
    *,
    max_tensor_bytes: int = MAX_TENSOR_BYTES,
) -> tuple[PredictRequest, OutputEncoding]:
    """A request for ``target``, valid against its signature, and how to encode the answer.

    ``header_length`` is the value of ``Inference-Header-Content-Length``, None when the header is
    absent; 0 means that the whole body is one tensor. ``version`` is the one in the path, or "".
    ``now`` is in seconds on the loop's clock. Of the request's ``headers`` those are read that the
    servable has names for. Inputs may be read-only views of ``body``.

    Raises INVALID_ARGUMENT, or UNIMPLEMENTED for shared memory and classification.
    """
    decoder = target.reply_templates.get(_DECODER_KEY)
    if decoder is None:
        decoder = target.reply_templates[_DECODER_KEY] = _Decoder(target)
    if header_length == 0:
        tensor, rows = decode_raw_body(target, decoder.table, body)
        parameters = None
        inputs: tuple[Tensor, ...] = (tensor,)
        request_id = None
        wanted, encoding = decoder.all_binary
    else:
        text = body if header_length is None else split_header(body, header_length)
        wire, read = decoder.parse(text)
        inputs, rows = decoder.read_inputs(wire, read, body, len(text), max_tensor_bytes)
        parameters, request_id = wire.parameters, wire.id
        if parameters is None and not wire.outputs and decoder.all_json is not None:
            wanted, encoding = decoder.all_json
        else:
            wanted, encoding = decoder.wanted_outputs(wire)
    if parameters is None:
        deadline, priority = now + target.default_timeout_s, target.default_priority
    else:
        refuse_sequence(
            target.name,
            parameters.sequence_id,
            parameters.sequence_start,
            parameters.sequence_end,
        )
        deadline = deadline_s(target, parameters.timeout, now)
        priority = parameters.priority or target.default_priority
    request = PredictRequest(
        target.name,
        version,
        request_id or "",
        inputs,
        rows,
        wanted,
        deadline,
        priority,
        now,
        len(body),
    )
    if decoder.wanted is not None:
        decoder.wanted.read(request, parameters, headers)
    return request, encoding


class _JsonContext(WantedContext):
    """What is wanted of the requests to one servable, as it stands in their JSON."""

    __slots__ = ("_values_of_parameters", "kind")

    def __init__(self, names: ContextNames) -> None:
        super().__init__(names)
        self.kind, attributes = parameters_type(names.parameters)
        self._values_of_parameters = _getter(attributes)

    def read(
        self, request: PredictRequest, parameters: FeatureParameters | None, headers: HeaderFields
    ) -> None:
        values = self.absent
        if parameters is not None:
            if values:
                values = self._values_of_parameters(parameters)
            if parameters.feature_status:
                request.wants_feature_status = True
        self.note(request, values, headers)


def _getter(attributes: Sequence[str]) -> Callable[[Any], tuple[ContextValue, ...]]:
    """Says the values of these attributes; of a single one, ``attrgetter`` itself makes no tuple."""
    if not attributes:
        return lambda _: ()
    values_of: Callable[[Any], Any] = attrgetter(*attributes)
    return values_of if len(attributes) > 1 else lambda parameters: (values_of(parameters),)


class _Decoder:
    """What decoding needs to know of one servable."""

    __slots__ = (
        "_json_problem",
        "_model",
        "_parse_once",
        "_parse_patiently",
        "_signature",
        "all_binary",
        "all_json",
        "table",
        "wanted",
    )

    def __init__(self, target: Servable) -> None:
        self._model = target.name
        self._signature: Signature = target.signature
        names = target.context_names
        self.wanted = None if names is None else _JsonContext(names)
        kind = RequestParameters if self.wanted is None else self.wanted.kind
        self._parse_once = one_pass_reader(self._signature, kind)
        self._parse_patiently = read_patiently if self.wanted is None else PatientReader(kind)
        self._json_problem = next(filter(None, map(json_problem, self._signature.outputs)), "")
        self.table: InputTable = input_table(target)
        wanted = self._signature.all_outputs
        self.all_binary = wanted, OutputEncoding((True,) * len(wanted))
        self.all_json = None if self._json_problem else (wanted, _ALL_JSON)

    def parse(self, text: Buffer) -> tuple[AnyRequest, TensorReader]:
        """The request's fields, and the function that makes tensors of its ``data``."""
        if self._parse_once is not None and len(text) <= ONE_PASS_BYTES:
            try:
                return self._parse_once(text), tensor_of
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # the patient reader finds out what is wrong
        return self._parse_patiently(text)

    def read_inputs(
        self,
        wire: AnyRequest,
        read: TensorReader,
        body: Buffer,
        offset: int,
        max_tensor_bytes: int,
    ) -> tuple[tuple[Tensor, ...], int]:
        """The tensors in the signature's order, and their rows; ``offset`` is the JSON's end."""
        table = self.table
        if len(wire.inputs) != table.count:
            raise table.wrong_names([item.name for item in wire.inputs])
        layouts: list[InputLayout] = []
        tensors: list[Tensor] = []
        for item in wire.inputs:
            layout = table.known.get((item.name, item.datatype, item.shape))
            if layout is None:
                layout = table.check(item.name, item.datatype, item.shape)
            data = item.data
            size = None if item.parameters is None and data is not None else _binary_size(item)
            if size is not None:
                tensors.append(take_tensor(layout, body, offset, size))
                offset += size
            elif layout.nbytes <= max_tensor_bytes:
                tensors.append(read(layout, data))
            else:
                raise invalid(
                    f"input {quote(layout.name)} would take {layout.nbytes} bytes, and a tensor "
                    f"in JSON may take {max_tensor_bytes}; send binary tensor data"
                )
            layouts.append(layout)
        if offset != len(body):
            raise leftover(body, offset)
        if table.count == 1:
            return (tensors[0],), layouts[0].rows
        return table.arrange(layouts, tensors)

    def wanted_outputs(self, wire: AnyRequest) -> tuple[tuple[int, ...], OutputEncoding]:
        """Indices of the outputs that the caller named, all if none, and their encoding."""
        parameters = wire.parameters
        all_binary = parameters is not None and bool(parameters.binary_data_output)
        if wire.outputs:
            return self._named_outputs(wire.outputs, all_binary)
        if all_binary:
            return self.all_binary
        if self._json_problem:
            raise invalid(self._json_problem)
        return self._signature.all_outputs, _ALL_JSON

    def _named_outputs(
        self, outputs: list[WireOutput], all_binary: bool
    ) -> tuple[tuple[int, ...], OutputEncoding]:
        named: dict[int, bool] = {}
        for output in outputs:
            index = self._signature.output_index.get(output.name)
            if index is None:
                raise unknown_output(self._model, self._signature, output.name)
            if index in named:
                raise invalid(f"output {quote(output.name)} is asked for more than once")
            is_binary = all_binary
            if output.parameters is not None:
                refuse_output_options(
                    output.name,
                    output.parameters.classification,
                    output.parameters.shared_memory_region,
                )
                if output.parameters.binary_data is not None:
                    is_binary = output.parameters.binary_data
            problem = "" if is_binary else json_problem(self._signature.outputs[index])
            if problem:
                raise invalid(problem)
            named[index] = is_binary
        binary = tuple(named.values())
        return tuple(named), OutputEncoding(binary) if any(binary) else _ALL_JSON


def _binary_size(item: WireInput[Any]) -> int | None:
    """How many bytes of the body are this input; None when its ``data`` is JSON."""
    size = None
    if item.parameters is not None:
        if item.parameters.shared_memory_region is not None:
            raise refuse_shared_memory(f"input {quote(item.name)}")
        size = item.parameters.binary_data_size
    has_data = item.data is not None
    if has_data and size is not None:
        raise invalid(
            f"input {quote(item.name)} has both data and the parameter binary_data_size; send one"
        )
    if not has_data and size is None:
        raise invalid(
            f"input {quote(item.name)} has neither data nor the parameter binary_data_size"
        )
    return size


def encode_prediction(
    request: PredictRequest, prediction: Prediction, encoding: OutputEncoding
) -> tuple[bytes, int | None]:
    """The reply's body, and the length of its JSON when any output travels as bytes behind it.

    Raises INVALID_ARGUMENT when JSON cannot carry an output that the caller wants as JSON.
    """
    template = reply_template(prediction.servable)
    if encoding.binary:
        return template.encode_with_binary(
            request.request_id, request.outputs, encoding.binary, prediction
        )
    return template.encode(request.request_id, request.outputs, prediction), None


def encode_error(message: str) -> bytes:
    """The body of every failed call, whatever its status: ``{"error": message}``."""
    try:
        return orjson.dumps({"error": message})
    except orjson.JSONEncodeError:  # half of a surrogate pair, out of some exception's text
        return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})
