"""V2 gRPC: a serialized ``ModelInferRequest`` to a ``PredictRequest``, and the reply's bytes.

Decides how the tensors of a message are read: all from ``raw_input_contents`` or all from typed
contents, as Triton and KServe want it. Every fault becomes INVALID_ARGUMENT (or UNIMPLEMENTED)
with a sentence that names the tensor; it must never let protobuf's exceptions through, nor answer
with typed contents.

protobuf's C parser does the reading, but for messages that ``proto_memo`` knows. Each attribute of
a message costs 0.07 to 0.3 µs from Python, so an input's description is looked up by its serialized
bytes (0.3 µs) rather than by name, datatype, shape, parameters and contents (0.9 µs).
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from backends.signature import Signature, Tensor
from gateway.edge.input_layout import MAX_KNOWN, InputLayout, InputTable, input_table, quote
from gateway.edge.proto_contents import read_contents
from gateway.edge.proto_memo import FeatureOptions, RequestMemo, read_opening
from gateway.edge.proto_reply import TEMPLATE_KEY, parameters_field, reply_template
from gateway.edge.request_context import WantedContext
from gateway.edge.request_options import (
    deadline_s,
    refuse_output_options,
    refuse_sequence,
    refuse_shared_memory,
    unknown_output,
)
from gateway.edge.tensor_bytes import read_tensor, wrong_size
from gateway.errors import invalid
from gateway.messages import FEATURE_STATUS, Prediction, PredictRequest
from gateway.ports import Servable
from protos.inference import InferParameter, ModelInferRequest

_DECODER_KEY = "proto_request"
_MAX_KEY_BYTES = 1024
"""Longer descriptions of an input are read anew each time, rather than remembered."""

_NO_HEADERS: dict[bytes, bytes] = {}
_Input: TypeAlias = ModelInferRequest.InferInputTensor


def decode_infer(
    message: bytes,
    now: float,
    find: Callable[[str, str], Servable],
    headers: dict[bytes, bytes] = _NO_HEADERS,
) -> PredictRequest:
    """A request, valid against the signature of the servable that ``find`` has for its model.

    ``find`` takes the model's name and the version ("" when the caller leaves it to the policy); it
    may be called twice, and its errors pass through. ``now`` is in seconds on the loop's clock. Of
    the call's ``headers`` (metadata) those are read that the servable has names for. Inputs
    may be read-only.

    Raises INVALID_ARGUMENT, or UNIMPLEMENTED for shared memory and classification.
    """
    opening = read_opening(message)
    if opening is not None:
        name, version, request_id, start = opening
        target = find(name, version)
        decoder = target.reply_templates.get(_DECODER_KEY) or _decoder(target)
        known = decoder.memo.find(message, start)
        inputs = known and known.read(message)
        if known and inputs:
            request = PredictRequest(
                target.name,
                version,
                request_id,
                inputs,
                known.layouts[0].rows,
                known.outputs,
                deadline_s(target, known.timeout_us, now),
                known.priority or target.default_priority,
                now,
                len(message),
            )
            if decoder.wanted is not None:
                _note(decoder.wanted, request, known.features, headers)
            return request
    return _parse_request(message, now, find, None if opening is None else opening[3], headers)


def _parse_request(
    message: bytes,
    now: float,
    find: Callable[[str, str], Servable],
    start: int | None,
    headers: dict[bytes, bytes] = _NO_HEADERS,
) -> PredictRequest:
    """``decode_infer`` by the parser; ``start`` is where a readable opening ends."""
    try:
        wire = ModelInferRequest.FromString(message)
    except DecodeError:
        raise invalid("the message is no ModelInferRequest: it does not parse") from None
    version = wire.model_version
    target = find(wire.model_name, version)
    decoder = _decoder(target)
    raw = wire.raw_input_contents[:]
    if raw:
        layouts, tensors = decoder.read_raw(wire, raw)
    else:
        layouts, tensors = decoder.read_typed(wire)
    inputs, rows = decoder.table.arrange(layouts, tensors)
    outputs = decoder.named_outputs(wire) if wire.outputs else target.signature.all_outputs
    timeout_us, priority = None, None
    if wire.parameters:
        timeout_us, priority = _request_options(target.name, wire.parameters)
    wanted = decoder.wanted
    features = None if wanted is None else _feature_options(wanted, wire.parameters)
    if start is not None and raw:
        decoder.memo.learn(message, start, layouts, raw, outputs, timeout_us, priority, features)
    request = PredictRequest(
        target.name,
        version,
        wire.id,
        inputs,
        rows,
        outputs,
        deadline_s(target, timeout_us, now),
        priority or target.default_priority,
        now,
        len(message),
    )
    if wanted is not None:
        _note(wanted, request, features, headers)
    return request


class _Decoder:
    """What decoding needs to know of one servable."""

    __slots__ = ("_known", "_model", "_signature", "memo", "table", "wanted")

    def __init__(self, target: Servable) -> None:
        self._model = target.name
        self._signature: Signature = target.signature
        self._known: dict[bytes, InputLayout] = {}
        self.table: InputTable = input_table(target)
        self.memo = RequestMemo()
        names = target.context_names
        self.wanted = None if names is None else WantedContext(names)

    def read_raw(
        self, wire: ModelInferRequest, raw: list[bytes]
    ) -> tuple[list[InputLayout], list[Tensor]]:
        """The tensors of raw contents, which they view, with their layouts."""
        inputs = wire.inputs
        if len(inputs) != len(raw):
            raise invalid(
                f"raw_input_contents has {len(raw)} entries for {len(inputs)} inputs; "
                "send one for each, or typed contents for all"
            )
        if len(raw) != self.table.count:
            raise self.table.wrong_names([item.name for item in inputs])
        layouts: list[InputLayout] = []
        tensors: list[Tensor] = []
        for i, data in enumerate(raw):
            item = inputs[i]  # iterating over a protobuf container ends with an exception: 0.4 µs
            described = item.SerializeToString()
            layout = self._known.get(described) or self._learn(item, described)
            if not layout.is_plain:
                tensors.append(read_tensor(layout, data, 0, len(data)))
            elif len(data) == layout.nbytes:
                tensors.append(np.ndarray(layout.shape, layout.dtype, data))
            else:
                raise wrong_size(layout, len(data))
            layouts.append(layout)
        return layouts, tensors

    def _learn(self, item: _Input, described: bytes) -> InputLayout:
        layout = self._layout(item)
        if item.HasField("contents"):
            raise invalid(
                f"input {quote(layout.name)} has contents, and the message has "
                "raw_input_contents; send all tensors the one way or the other"
            )
        if len(described) <= _MAX_KEY_BYTES:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[described] = layout
        return layout

    def _layout(self, item: _Input) -> InputLayout:
        if "shared_memory_region" in item.parameters:
            raise refuse_shared_memory(f"input {quote(item.name)}")
        name, datatype, shape = item.name, item.datatype, tuple(item.shape[:])
        known = self.table.known.get((name, datatype, shape))
        return known or self.table.check(name, datatype, shape)

    def read_typed(self, wire: ModelInferRequest) -> tuple[list[InputLayout], list[Tensor]]:
        """The tensors of typed contents, with their layouts."""
        inputs = wire.inputs[:]
        if len(inputs) != self.table.count:
            raise self.table.wrong_names([item.name for item in inputs])
        layouts = [self._layout(item) for item in inputs]
        tensors = [
            read_contents(layout, item.contents)
            for layout, item in zip(layouts, inputs, strict=True)
        ]
        return layouts, tensors

    def named_outputs(self, wire: ModelInferRequest) -> tuple[int, ...]:
        """Indices of the outputs that the caller named, in that order."""
        named: dict[int, None] = {}
        for output in wire.outputs:
            index = self._signature.output_index.get(output.name)
            if index is None:
                raise unknown_output(self._model, self._signature, output.name)
            if index in named:
                raise invalid(f"output {quote(output.name)} is asked for more than once")
            if output.parameters:
                refuse_output_options(
                    output.name,
                    _value(output.parameters, "classification"),
                    _value(output.parameters, "shared_memory_region"),
                )
            named[index] = None
        return tuple(named)


def _decoder(target: Servable) -> _Decoder:
    decoder = target.reply_templates.get(_DECODER_KEY)
    if decoder is None:
        decoder = target.reply_templates[_DECODER_KEY] = _Decoder(target)
    return decoder


def _request_options(
    model: str, parameters: Mapping[str, InferParameter]
) -> tuple[int | None, int | None]:
    """The request's timeout in microseconds and its priority; None where it has none."""
    sequence_id = _value(parameters, "sequence_id")
    refuse_sequence(
        model,
        sequence_id if isinstance(sequence_id, int | str) else None,
        bool(_value(parameters, "sequence_start")),
        bool(_value(parameters, "sequence_end")),
    )
    return _natural(parameters, "timeout"), _natural(parameters, "priority")


def _feature_options(
    wanted: WantedContext, parameters: Mapping[str, InferParameter]
) -> FeatureOptions:
    """What a request to a servable that wants a context says in its parameters."""
    asks = _value(parameters, FEATURE_STATUS)
    if asks is not None and not isinstance(asks, bool):
        raise invalid(f"parameter {FEATURE_STATUS} is {reprlib.repr(asks)}; expected a bool_param")
    return FeatureOptions(
        tuple([_value(parameters, name) for name in wanted.parameters]), bool(asks)
    )


def _note(
    wanted: WantedContext,
    request: PredictRequest,
    features: FeatureOptions | None,
    headers: dict[bytes, bytes],
) -> None:
    assert features is not None, "the servable wants them from its first request on"
    wanted.note(request, features.values, headers)
    request.wants_feature_status = features.wants_status


def _natural(parameters: Mapping[str, InferParameter], name: str) -> int | None:
    value = _value(parameters, name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise invalid(
            f"parameter {name} is {reprlib.repr(value)}; "
            "expected an int64_param or uint64_param of at least 0"
        )
    return value


def _value(parameters: Mapping[str, InferParameter], name: str) -> bool | int | float | str | None:
    # Asking a protobuf map for a missing key would add it.
    if name not in parameters:
        return None
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def encode_prediction(request: PredictRequest, prediction: Prediction) -> bytes:
    """The serialized ``ModelInferResponse``: the wanted outputs as raw contents, in their order."""
    servable = prediction.servable
    template = servable.reply_templates.get(TEMPLATE_KEY) or reply_template(servable)
    message = template.encode(request.request_id, request.outputs, prediction)
    if prediction.assignment is None and prediction.parameters is None:
        return message
    return message + parameters_field(prediction)
