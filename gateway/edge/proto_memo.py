"""Requests that look like an earlier one, read without a protobuf parser.

Clients send the same message again and again; only the ``id`` and the numbers of the tensor differ.
This module decides whether a message is, byte for byte, a remembered one but for those two, so that
what was valid then is valid now. It must never accept a message that a parser would read in another
way: it leaves out whole fields only, and remembers only what protobuf itself would write like that.

Measured for 32 floats: 1.7 µs a request instead of 3.6 µs; an unknown message pays 0.7 µs for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from google.protobuf.message import DecodeError

from backends.signature import Tensor
from gateway.edge.input_layout import InputLayout
from gateway.edge.proto_reply import length_prefix
from gateway.edge.tensor_bytes import read_tensor
from gateway.messages import ContextValue
from protos.inference import ModelInferRequest

# Tags of length-delimited fields: the field's number times 8, plus 2.
_MODEL_NAME, _MODEL_VERSION, _ID, _RAW_INPUT_CONTENTS = 0x0A, 0x12, 0x1A, b"\x3a"
_LONGEST_TEXT = 127
"""In bytes; the length of a longer one takes more than a byte, and is left to the parser."""

_NO_TENSOR: Tensor = np.empty(0)

MAX_KNOWN = 1024
MAX_KEY_BYTES = 1024
_MAX_LENGTHS = 4


class FeatureOptions(msgspec.Struct, frozen=True, gc=False):
    """What a request says in its parameters to its servable's enrichment, or to the plan of a rollout."""

    values: tuple[ContextValue, ...]
    """Of the parameters that are wanted."""
    wants_status: bool


class Remembered(msgspec.Struct, gc=False):
    """What a known message says, apart from its ``id`` and the numbers of its tensors."""

    layouts: tuple[InputLayout, ...]
    """Of the tensors, in the message's order."""
    lengths: tuple[int, ...]
    """Of the tensors' data, in bytes. Strings that are longer or shorter make another message."""
    gaps: tuple[bytes, ...]
    """The bytes before each tensor: its tag and length. The first one's belong to the key."""
    tail: int
    """Bytes from the first tensor to the message's end."""
    outputs: tuple[int, ...]
    timeout_us: int | None
    priority: int | None
    features: FeatureOptions | None
    """None for a servable that wants no context."""

    def read(self, message: bytes) -> tuple[Tensor, ...] | None:
        """The tensors of a message with this key, in the signature's order; None if it differs.

        They are copied out, since inside of the message the numbers would lie unaligned.
        """
        offset = len(message) - self.tail
        if len(self.layouts) == 1:
            layout = self.layouts[0]
            data = message[offset:]
            if layout.is_plain:
                return (np.ndarray(layout.shape, layout.dtype, data),)
            return (read_tensor(layout, data, 0, self.tail),)
        placed: list[Tensor] = [_NO_TENSOR] * len(self.layouts)
        for layout, length, gap in zip(self.layouts, self.lengths, self.gaps, strict=True):
            start = offset + len(gap)
            if message[offset:start] != gap:
                return None
            offset = start + length
            data = message[start:offset]
            if layout.is_plain:
                placed[layout.index] = np.ndarray(layout.shape, layout.dtype, data)
            else:
                placed[layout.index] = read_tensor(layout, data, 0, length)
        return tuple(placed)


def read_opening(message: bytes) -> tuple[str, str, str, int] | None:
    """Model name, version and request id, and where they end, if the message starts with them.

    These are the first three fields, and every protobuf library writes fields in their order. None
    for a message that starts otherwise; the parser has to read it.
    """
    try:
        if message[0] != _MODEL_NAME or message[1] > _LONGEST_TEXT:
            return None
        end = message[1] + 2
        model_name = message[2:end].decode()
        version = request_id = ""
        if message[end] == _MODEL_VERSION:
            if message[end + 1] > _LONGEST_TEXT:
                return None
            start, end = end + 2, end + 2 + message[end + 1]
            version = message[start:end].decode()
        if message[end] == _ID:
            if message[end + 1] > _LONGEST_TEXT:
                return None
            start, end = end + 2, end + 2 + message[end + 1]
            request_id = message[start:end].decode()
    except (IndexError, UnicodeDecodeError):
        return None
    return (model_name, version, request_id, end) if end < len(message) else None


class RequestMemo:
    """The messages that one servable got again and again.

    A key is what stands between the ``id`` and the first tensor's bytes, with the tag and the
    length of those at its end. Keys of a few different lengths are tried.
    """

    __slots__ = ("_known", "_lengths", "_seen")

    def __init__(self) -> None:
        self._known: dict[bytes, Remembered] = {}
        self._lengths: list[int] = []
        self._seen: dict[bytes, int] = {}  # how often the parser has read each key

    def find(self, message: bytes, start: int) -> Remembered | None:
        """What is known of a message whose opening ends at ``start``."""
        for length in self._lengths:
            end = start + length
            known = self._known.get(message[start:end])
            if known is not None and len(message) - end == known.tail:
                return known
        return None

    def learn(
        self,
        message: bytes,
        start: int,
        layouts: Sequence[InputLayout],
        raw: Sequence[bytes],
        outputs: tuple[int, ...],
        timeout_us: int | None,
        priority: int | None,
        features: FeatureOptions | None,
    ) -> None:
        """Remembers a valid message with its ``raw`` tensors, the second time that it comes.

        Some messages never come twice, for example when each has another timeout.
        """
        lengths = tuple(map(len, raw))
        tags = [_RAW_INPUT_CONTENTS + length_prefix(length) for length in lengths]
        gaps = (b"", *tags[1:])
        tail = sum(lengths) + sum(map(len, gaps))
        key = message[start : len(message) - tail]
        if len(key) > MAX_KEY_BYTES:
            return
        if len(self._lengths) == _MAX_LENGTHS and len(key) not in self._lengths:
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
            self._lengths.clear()
            self._seen.clear()
        if len(self._seen) >= MAX_KNOWN:
            self._seen.clear()
        times = self._seen[key] = self._seen.get(key, 0) + 1
        if times != 2:  # the third time, it was found unfit
            return
        found = Remembered(
            tuple(layouts), lengths, gaps, tail, outputs, timeout_us, priority, features
        )
        if _ends_whole(key, tags[0]) and found.read(message) is not None:
            self._known[key] = found
            if len(key) not in self._lengths:
                self._lengths.append(len(key))


def _ends_whole(key: bytes, tag: bytes) -> bool:
    """Whether the key is some whole fields, and then the tag and length of a raw tensor.

    Fields that parse on their own end where a field ends, so what follows is a tag. None of them
    may be a tensor or a part of the opening: it would count instead of the ones that were read.
    """
    fields = key.removesuffix(tag)
    if len(fields) == len(key):
        return False
    try:
        alone = ModelInferRequest.FromString(fields)
    except DecodeError:
        return False
    if alone.raw_input_contents or alone.model_name or alone.model_version or alone.id:
        return False
    # Written anew, it is the same: no field comes twice, out of order or empty.
    return alone.SerializeToString(deterministic=True) == fields
