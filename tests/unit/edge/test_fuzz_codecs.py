"""Any bytes at all, at every place where bytes of a stranger are read: a request, or a refusal in our own words.

``test_codec_round_trips.py`` has the other half: what is right comes back as it was. ``make fuzz`` asks for more.
"""

import gzip
import json
import os
import re
import tracemalloc
import zlib
from typing import Any

import httptools
import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backends.signature import NUMPY_DTYPES, Tensor
from gateway.edge import grpc_wire, infer_head, json_codec, proto_codec, tensor_bytes
from gateway.edge.grpc_cutter import MessageCutter
from gateway.edge.http_body import inflate
from gateway.edge.infer_head import plan_of_head
from gateway.edge.input_layout import input_table
from gateway.edge.proto_contents import CONTENTS_FIELDS
from gateway.errors import HeadraceError
from gateway.messages import Prediction, PredictRequest
from protos.inference import ModelInferRequest
from tests.support.servables import StubServable, stub, tensor_spec

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "80"))
fuzz = settings(derandomize="FUZZ_EXAMPLES" not in os.environ, deadline=None, max_examples=EXAMPLES)
DATATYPES = tuple(NUMPY_DTYPES)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
LIMIT_BYTES = 4096


def model_of(datatype: str, rank: int = 2) -> StubServable:
    dims = [-1] * rank
    return stub([tensor_spec("x", datatype, *dims)], [tensor_spec("y", datatype, *dims)])


def http_outcome(
    body: bytes, header_length: int | None, target: StubServable
) -> PredictRequest | HeadraceError:
    """A request, or the refusal; anything else that is raised fails the test."""
    try:
        return json_codec.decode_infer(body, header_length, target, "", 0.0)[0]
    except HeadraceError as error:
        return error


def grpc_outcome(message: bytes, target: StubServable) -> PredictRequest | HeadraceError:
    try:
        return proto_codec.decode_infer(message, 0.0, lambda _name, _version: target)
    except HeadraceError as error:
        return error


def damaged(data: st.DataObject, good: bytes) -> bytes:
    """``good`` with some bytes set, cut out, doubled or put in."""
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(good)))
        size = data.draw(st.integers(0, 8))
        new = data.draw(st.binary(max_size=8) | st.just(good[at : at + size] * 2))
        good = good[:at] + new + good[at + size :]
    return good


# ---- REST ------------------------------------------------------------------------------------------

words = st.sampled_from(
    "inputs outputs name shape datatype data parameters id timeout priority binary_data_size "
    "binary_data binary_data_output classification shared_memory_region sequence_id x y".split()
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["x", *DATATYPES])
)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=20,
)
inputs = st.fixed_dictionaries(
    {"name": st.just("x") | leaves, "shape": st.lists(st.integers(-1, 4), max_size=3) | documents},
    optional={
        "datatype": st.sampled_from(DATATYPES) | documents,
        "data": st.lists(leaves, max_size=6) | documents,
        "parameters": documents,
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(inputs, max_size=2) | documents},
    optional={"outputs": documents, "parameters": documents, "id": leaves},
)


@fuzz
@given(st.binary(max_size=200), st.none() | st.integers(-1, 250), st.sampled_from(DATATYPES))
def test_bytes_as_a_body(body: bytes, header_length: int | None, datatype: str) -> None:
    http_outcome(body, header_length, model_of(datatype))


@fuzz
@given(requests, st.sampled_from(DATATYPES), st.binary(max_size=40))
def test_documents_as_a_body(document: Any, datatype: str, behind: bytes) -> None:
    text = json.dumps(document).encode()
    target = model_of(datatype)
    http_outcome(text, None, target)
    http_outcome(text + behind, len(text), target)


@fuzz
@given(st.data(), st.sampled_from(DATATYPES), st.booleans())
def test_damaged_bodies(data: st.DataObject, datatype: str, binary: bool) -> None:
    one: dict[str, Any] = {"name": "x", "shape": [2, 2], "datatype": datatype}
    behind = b""
    if binary:
        behind = bytes(4 * 8) if datatype != "BYTES" else b"\x02\0\0\0ab" * 4
        behind = behind[: input_table(model_of(datatype)).check("x", datatype, (2, 2)).nbytes or 24]
        one["parameters"] = {"binary_data_size": len(behind)}
    else:
        one["data"] = ["a"] * 4 if datatype == "BYTES" else [1, 0, 1, 0]
    text = orjson.dumps({"inputs": [one], "id": "7"})
    bad = damaged(data, text)
    header_length = data.draw(st.sampled_from([None, 0, len(text), len(bad)]))
    http_outcome(bad + behind, header_length, model_of(datatype))


@fuzz
@given(
    st.lists(st.integers(-(2**70), 2**70), max_size=70),
    st.sampled_from(DATATYPES),
    st.sampled_from(
        [{}, {"data": []}, {"data": [[]] * 50}, {"parameters": {"binary_data_size": 8}}]
    ),
)
@example([2**40], "FP64", {"data": []})
@example([0, 2**62], "BYTES", {"data": [[]] * 50})
def test_claims_cost_no_memory(shape: list[int], datatype: str, more: dict[str, Any]) -> None:
    """What a shape says is not believed until the bytes are there."""
    body = json.dumps(
        {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, **more}]}
    ).encode()
    target = model_of(datatype, len(shape))
    tracemalloc.start()
    try:
        http_outcome(body, len(body), target)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


# ---- gRPC ------------------------------------------------------------------------------------------


def typed(datatype: str, tensor: Tensor) -> ModelInferRequest:
    message = ModelInferRequest(model_name="m")
    one = message.inputs.add(name="x", datatype=datatype, shape=tensor.shape)
    getattr(one.contents, CONTENTS_FIELDS[datatype]).extend(tensor.ravel().tolist())
    return message


@fuzz
@given(st.data(), st.sampled_from(sorted(CONTENTS_FIELDS)), shapes)
def test_typed_contents_come_back(
    data: st.DataObject, datatype: str, shape: tuple[int, ...]
) -> None:
    if datatype == "BYTES":
        tensor = data.draw(hnp.arrays(np.object_, shape, elements=st.binary(max_size=6)))
    else:
        tensor = data.draw(hnp.arrays(NUMPY_DTYPES[datatype], shape))
    message = typed(datatype, tensor).SerializeToString()
    target = model_of(datatype, len(shape))
    for _ in range(3):
        request = grpc_outcome(message, target)
        assert isinstance(request, PredictRequest), request
        (found,) = request.inputs
        assert found.shape == shape
        if datatype == "BYTES":
            assert found.tolist() == tensor.tolist()
        else:
            np.testing.assert_array_equal(found, tensor)
        reply = proto_codec.encode_prediction(request, Prediction(target, [found]))
        assert b"y" in reply


@fuzz
@given(st.binary(max_size=200), st.sampled_from(DATATYPES))
def test_bytes_as_a_message(message: bytes, datatype: str) -> None:
    target = model_of(datatype)
    for _ in range(3):
        grpc_outcome(message, target)


@fuzz
@given(st.data(), st.sampled_from(sorted(CONTENTS_FIELDS)), st.booleans())
def test_damaged_messages(data: st.DataObject, datatype: str, raw: bool) -> None:
    if raw:
        made = ModelInferRequest(model_name="m", id="7")
        made.inputs.add(name="x", datatype=datatype, shape=(2, 2))
        made.raw_input_contents.append(bytes(4 * max(NUMPY_DTYPES[datatype].itemsize, 4)))
        made.parameters["timeout"].int64_param = 5
    else:
        values: list[Any] = [b"a"] * 4 if datatype == "BYTES" else [1, 0, 1, 0]
        tensor = np.array(values, object if datatype == "BYTES" else NUMPY_DTYPES[datatype])
        made = typed(datatype, tensor.reshape(2, 2))
    good = made.SerializeToString()
    target = model_of(datatype)
    for _ in range(3):
        grpc_outcome(good, target)  # what is remembered of it must not mislead
    grpc_outcome(damaged(data, good), target)


@fuzz
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_bytes_as_framed_messages(pieces: list[bytes]) -> None:
    cutter = MessageCutter(LIMIT_BYTES)
    held = 0
    try:
        for piece in pieces:
            cutter.add(piece)
            held += len(piece)
            while (found := cutter.cut()) is not None:
                held -= len(found[1]) + grpc_wire.PREFIX_BYTES
            assert cutter.size_bytes == held
    except HeadraceError:
        assert any(pieces)


@fuzz
@given(st.binary(max_size=12) | st.from_regex(rb"[0-9]{0,9}[HMSmun]", fullmatch=True))
def test_bytes_as_a_timeout(value: bytes) -> None:
    try:
        assert 0 <= grpc_wire.parse_timeout_s(value) < 1e12
    except HeadraceError:
        assert not re.fullmatch(rb"[0-9]{1,8}[HMSmun]", value)


# ---- bodies and tensors ----------------------------------------------------------------------------


@fuzz
@given(st.data(), st.sampled_from(["gzip", "deflate"]), st.booleans())
def test_bytes_as_compressed(data: st.DataObject, encoding: str, zeros: bool) -> None:
    plain = bytes(50_000) if zeros else data.draw(st.binary(max_size=200))
    packed = gzip.compress(plain, 9) if encoding == "gzip" else zlib.compress(plain, 9)
    try:
        expanded = inflate(damaged(data, packed), encoding, LIMIT_BYTES)
    except HeadraceError:
        return
    assert len(expanded) <= LIMIT_BYTES


@fuzz
@given(st.lists(st.binary(max_size=20), max_size=12))
def test_elements_come_back(elements: list[bytes]) -> None:
    layout = input_table(model_of("BYTES", 1)).check("x", "BYTES", (len(elements),))
    tensor = np.empty(len(elements), object)
    tensor[:] = elements
    blob = tensor_bytes.write_elements(tensor)
    assert tensor_bytes.read_tensor(layout, blob, 0, len(blob)).tolist() == elements


@fuzz
@given(st.binary(max_size=60), st.integers(0, 5), st.integers(0, 8))
def test_bytes_as_elements(data: bytes, count: int, offset: int) -> None:
    layout = input_table(model_of("BYTES", 1)).check("x", "BYTES", (count,))
    size = max(0, len(data) - offset)
    try:
        found = tensor_bytes.read_tensor(layout, data, offset, size)
    except HeadraceError:
        return
    assert sum(len(one) + 4 for one in found.tolist()) == size


# ---- heads -----------------------------------------------------------------------------------------

HEAD = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n"
    b"accept-encoding: gzip\r\ninference-header-content-length: 2\r\nx-more: y\r\n\r\n"
)
BODY = b"{}"


class _Parsed:
    """What llhttp makes of bytes."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete_after: int | None = None
        self.body = b""
        self._fed = 0
        self.failed = False
        parser = self._parser = httptools.HttpRequestParser(self)
        try:
            for piece in pieces:
                self._fed += len(piece)
                parser.feed_data(piece)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.failed = True

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete_after is None:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.complete_after is None:
            self.complete_after = self._fed
            self.keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def plan(self) -> infer_head.InferPlan | None:
        return plan_of_head(self.url, self.headers, keep_alive=self.keep_alive)


@fuzz
@given(st.data())
def test_a_head_ends_where_the_memory_looks_for_its_end(data: st.DataObject) -> None:
    """Equal bytes have equal plans only if llhttp, too, ends a head at the first empty line, however it is fed."""
    stream = damaged(data, HEAD) + BODY
    end = stream.find(b"\r\n\r\n") + 4
    if not stream.startswith(b"POST ") or end < 4:
        return
    bytewise = _Parsed([stream[at : at + 1] for at in range(len(stream))])
    if bytewise.complete_after is None:
        return
    whole = _Parsed([stream])
    if bytewise.complete_after < end:
        assert bytewise.failed, "a head that ended early, and the rest was taken for a body"
        return
    assert bytewise.complete_after == end
    assert whole.plan() == bytewise.plan()
    plan = whole.plan()
    if plan is not None and not whole.failed:
        assert whole.body[: plan.content_length] == stream[end : end + plan.content_length]


@fuzz
@given(
    st.binary(max_size=60) | st.just(b"/v2/models/m/infer"),
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    b"content-length",
                    b"inference-header-content-length",
                    b"accept-encoding",
                    b"traceparent",
                    b"x",
                ]
            ),
            st.from_regex(rb"[0-9]{1,18}", fullmatch=True) | st.from_regex(rb"[ -~]{0,20}"),
        ),
        max_size=5,
    ),
)
def test_any_head_has_a_plan_or_none(url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    # llhttp lets only digits through as a content-length.
    kept = [(n, v) for n, v in headers if n != b"content-length" or v.isdigit()]
    plan = plan_of_head(url, kept, keep_alive=True)
    if plan is not None:
        assert infer_head.INFER_URL.fullmatch(url)
        assert plan.content_length >= 0


@pytest.mark.parametrize("wish", ["gzip;q=", ";;;,,,", "gzip;q=0.0.0", "\xff", "gzip" * 1000])
def test_odd_wishes_for_compression(wish: str) -> None:
    assert infer_head.wanted_compression(wish) in ("", "gzip", "deflate")
