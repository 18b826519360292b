"""The protobuf of an infer reply: a serialized ``ModelInferResponse``, written without the message.

Decides which bytes of a reply are the same for every request of a model, and keeps them. A protobuf
message may be put together from its fields' bytes in any order, so a reply is the ``id``, the part
that is known (names, datatypes, shapes, and the tag and length of raw data of a fixed size) and the
tensors' own bytes. It must never write what a protobuf library would not read back the same.

Measured for one float: 0.6 µs, where filling and serializing the message takes 2.1 µs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.signature import Tensor
from gateway.edge.routed_reply import RoutedReplies, told
from gateway.edge.tensor_bytes import write_elements
from gateway.messages import Parameters, Prediction
from gateway.ports import Servable
from protos.inference import ModelInferResponse

TEMPLATE_KEY = "proto_reply"
MAX_KNOWN = 1024
"""Remembered shapes per servable, since variable dimensions could make it grow for ever."""

# Tags of length-delimited fields: the field's number times 8, plus 2.
_ID_TAG = b"\x1a"  # id
_RAW_TAG = b"\x32"  # raw_output_contents

# The field of an id whose length fits into one byte, up to its text.
_ID_PREFIXES = [_ID_TAG + bytes([length]) for length in range(128)]


def length_prefix(length: int) -> bytes:
    """A length as protobuf writes it: seven bits a byte, the lowest first."""
    written = bytearray()
    while length > 127:
        written.append(length & 127 | 128)
        length >>= 7
    written.append(length)
    return bytes(written)


class ReplyTemplate:
    """What one servable's replies have in common."""

    __slots__ = ("_known", "_name", "_outputs", "_version")

    def __init__(self, servable: Servable) -> None:
        self._name = servable.name
        self._version = servable.version
        self._outputs = servable.signature.outputs
        # (wanted outputs, their shapes, or the one shape of a single output) -> what stands before
        # the bytes of each tensor.
        self._known: dict[tuple[tuple[int, ...], Any], list[bytes]] = {}

    def encode(self, request_id: str, wanted: tuple[int, ...], prediction: Prediction) -> bytes:
        """The serialized reply: the wanted outputs, in that order, as raw contents."""
        outputs = prediction.outputs
        if len(wanted) == 1:
            tensor: Any = outputs[wanted[0]]  # NumPy's stubs do not call arrays buffers yet
            known = self._known.get((wanted, tensor.shape))
            if known is None:
                known = self._learn(wanted, tensor.shape, (tensor,))
            if tensor.dtype.hasobject:
                return b"".join((_id_field(request_id), *_with_length(known[0], tensor)))
            if request_id:
                return b"".join((_id_field(request_id), known[0], tensor))
            return b"".join((known[0], tensor))
        tensors = [outputs[index] for index in wanted]
        shapes = tuple([tensor.shape for tensor in tensors])
        known = self._known.get((wanted, shapes)) or self._learn(wanted, shapes, tensors)
        parts: list[Any] = [_id_field(request_id), known[0]]
        for before, tensor in zip(known[1:], tensors, strict=True):
            if tensor.dtype.hasobject:
                parts += _with_length(before, tensor)
            else:
                parts += before, tensor
        return b"".join(parts)

    def _learn(
        self, wanted: tuple[int, ...], shapes: Any, tensors: Sequence[Tensor]
    ) -> list[bytes]:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        message = ModelInferResponse(model_name=self._name, model_version=self._version)
        tags = []
        for index, tensor in zip(wanted, tensors, strict=True):
            spec = self._outputs[index]
            message.outputs.add(name=spec.name, datatype=spec.datatype, shape=tensor.shape)
            is_fixed = not tensor.dtype.hasobject
            tags.append(_RAW_TAG + (length_prefix(tensor.nbytes) if is_fixed else b""))
        head = message.SerializeToString()
        known = [head + tags[0]] if len(tags) == 1 else [head, *tags]
        self._known[wanted, shapes] = known
        return known


def reply_template(servable: Servable) -> ReplyTemplate:
    """The servable's template, made at its first reply."""
    template = servable.reply_templates.get(TEMPLATE_KEY)
    if template is None:
        template = servable.reply_templates[TEMPLATE_KEY] = ReplyTemplate(servable)
    return template


def parameters_field(prediction: Prediction) -> bytes:
    """The reply's parameters, for behind its other fields. Raises ValueError for an integer beyond 64 bits."""
    assignment = prediction.assignment
    if assignment is None:
        return _written(prediction.parameters or {})
    if prediction.parameters is not None:
        return _written(told(assignment, prediction.prediction_id, prediction.parameters))
    before, after = _ROUTED.known.get(assignment) or _ROUTED.around(assignment)
    return before + prediction.prediction_id.encode() + after


def _written(parameters: Parameters) -> bytes:
    message = ModelInferResponse()
    for name, value in parameters.items():
        parameter = message.parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, str):
            parameter.string_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        elif value < 2**63:
            parameter.int64_param = value
        else:
            parameter.uint64_param = value
    return message.SerializeToString()


_ROUTED = RoutedReplies(_written)


def _id_field(request_id: str) -> bytes:
    if not request_id:
        return b""
    text = request_id.encode()
    length = len(text)
    return (_ID_PREFIXES[length] if length < 128 else _ID_TAG + length_prefix(length)) + text


def _with_length(tag: bytes, tensor: Tensor) -> tuple[bytes, bytes, bytes]:
    data = write_elements(tensor)
    return tag, length_prefix(len(data)), data
