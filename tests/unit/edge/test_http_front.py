from __future__ import annotations

import gzip
import logging
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from backends.signature import Tensor
from gateway.core.admission import Admission, AdmissionLimits
from gateway.core.servables import ServableTable
from gateway.edge.http_front import (
    COMPRESS_FROM_BYTES,
    COMPRESS_UP_TO_BYTES,
    HttpFront,
    Reply,
    compress,
    error_reply,
    serialize,
)
from gateway.edge.infer_head import InferPlan
from gateway.edge.json_codec import OutputEncoding
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import NO_DEADLINE_S, Assignment, Prediction, PredictRequest
from gateway.settings import HttpLimits
from gateway.telemetry.metrics import FrontMetrics
from tests.support.servables import StubServable, stub, tensor_spec

NOW_S = 100.0
ALL_JSON = OutputEncoding(())
UNPACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


class Front:
    """The front of one model, and what it counted."""

    def __init__(self, *, datatype: str = "FP32", access_log: bool = False) -> None:
        self.counted = FrontMetrics()
        self.model: StubServable = stub(
            [tensor_spec("x", "FP32", -1)], [tensor_spec("y", datatype, -1)], max_batch_size=8
        )

        async def nobody(request: PredictRequest) -> Prediction:
            raise AssertionError("not reached")

        self.front = HttpFront(
            nobody,
            ServableTable([], []),
            Admission(AdmissionLimits()),
            self.counted,
            lambda: NOW_S,
            HttpLimits(),
            access_log=access_log,
        )

    def answered(
        self, output: Tensor, compression: str = "", encoding: OutputEncoding = ALL_JSON
    ) -> Reply:
        return self.front.reply(
            plan(compression), request(), encoding, Prediction(self.model, [output]), None
        )

    def failed(self, error: BaseException) -> Reply:
        return self.front.reply(plan(), request(), None, None, error)


def plan(compression: str = "") -> InferPlan:
    return InferPlan("m", "1", 10, None, True, compression)


def request(**fields: Any) -> PredictRequest:
    known: dict[str, Any] = {
        "model": "m",
        "version": "1",
        "request_id": "r-1",
        "inputs": (),
        "rows": 1,
        "outputs": (0,),
        "deadline_s": NO_DEADLINE_S,
        "priority": 1,
        "received_s": NOW_S - 0.25,
        "size_bytes": 8,
    }
    return PredictRequest(**(known | fields))


def numbers(count: int) -> Tensor:
    return np.arange(count, dtype=np.float32)


# -- replies --------------------------------------------------------------------------------------


def test_an_answer_is_json_with_status_200() -> None:
    front = Front()
    reply = front.answered(numbers(2))
    assert (reply.status, reply.headers) == (200, [(b"content-type", b"application/json")])
    assert orjson.loads(reply.body)["outputs"][0]["data"] == [0, 1]
    assert front.counted.calls == Counter({("http", "ok"): 1})


def test_an_answer_with_binary_tensors_says_where_its_json_ends() -> None:
    reply = Front().answered(numbers(2), encoding=OutputEncoding((True,)))
    headers = dict(reply.headers)
    assert headers[b"content-type"] == b"application/octet-stream"
    json_length = int(headers[b"inference-header-content-length"])
    orjson.loads(reply.body[:json_length])
    assert reply.body[json_length:] == numbers(2).tobytes()


def test_a_failure_is_json_with_its_status_and_is_counted_by_code() -> None:
    front = Front()
    reply = front.failed(HeadraceError(ErrorCode.DEADLINE_EXCEEDED, "too late"))
    assert (reply.status, orjson.loads(reply.body)) == (504, {"error": "too late"})
    assert front.counted.calls == Counter({("http", "deadline_exceeded"): 1})


def test_an_answer_that_json_cannot_carry_is_a_failure() -> None:
    """Bytes that are no text; as a binary tensor they would travel."""
    front = Front(datatype="BYTES")
    reply = front.answered(np.array([b"\xff"], object))
    assert reply.status == 400
    assert "error" in orjson.loads(reply.body)
    assert front.counted.calls == Counter({("http", "invalid_argument"): 1})


def test_what_nobody_expected_is_not_told() -> None:
    reply = Front().failed(KeyError("secret"))
    assert reply.status == 500
    assert b"secret" not in reply.body


def test_overload_says_when_to_try_again() -> None:
    reply = error_reply(HeadraceError(ErrorCode.OVERLOADED, "full", retry_after_s=2.5))
    assert (b"retry-after", b"3") in reply.headers


def test_one_failures_headers_are_not_anothers() -> None:
    error_reply(HeadraceError(ErrorCode.OVERLOADED, "full", retry_after_s=1.0))
    plain = error_reply(HeadraceError(ErrorCode.NOT_FOUND, "no"))
    assert plain.headers == [(b"content-type", b"application/json")]


# -- compression ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", sorted(UNPACK))
def test_an_answer_is_compressed_for_who_wants_it(encoding: str) -> None:
    plain, packed = Front().answered(numbers(500)), Front().answered(numbers(500), encoding)
    assert (b"content-encoding", encoding.encode()) in packed.headers
    assert UNPACK[encoding](packed.body) == plain.body
    assert len(packed.body) < len(plain.body)


@pytest.mark.parametrize(
    ("count", "compressed"),
    [(10, False), (COMPRESS_FROM_BYTES // 2, True), (COMPRESS_UP_TO_BYTES // 2, False)],
)
def test_very_small_and_very_large_answers_stay_as_they_are(count: int, compressed: bool) -> None:
    names = [name for name, _ in Front().answered(numbers(count), "gzip").headers]
    assert (b"content-encoding" in names) is compressed


def test_compressing_one_answer_leaves_the_next_alone() -> None:
    Front().answered(numbers(500), "gzip")
    assert Front().answered(numbers(2)).headers == [(b"content-type", b"application/json")]


@pytest.mark.parametrize("encoding", sorted(UNPACK))
@pytest.mark.parametrize("size", [0, 1, 5000])
def test_what_is_compressed_can_be_expanded(encoding: str, size: int) -> None:
    body = bytes(range(250)) * (size // 250) + b"x" * (size % 250)
    assert UNPACK[encoding](compress(body, encoding)) == body


# -- bytes ----------------------------------------------------------------------------------------


def test_a_reply_is_one_http_message() -> None:
    reply = Reply(503, [(b"content-type", b"application/json"), (b"retry-after", b"1")], b"{}")
    assert serialize(reply, close=False) == (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"content-type: application/json\r\n"
        b"retry-after: 1\r\n"
        b"content-length: 2\r\n"
        b"\r\n"
        b"{}"
    )


def test_the_last_reply_of_a_connection_says_so() -> None:
    assert b"\r\nconnection: close\r\n\r\n" in serialize(Reply(200, [], b""), close=True)


@pytest.mark.parametrize("body", [b"", b"{}", bytes(1000)])
def test_the_short_way_writes_the_same_bytes(body: bytes) -> None:
    short = Front().answered(numbers(1))
    short.body = body
    long = Reply(200, list(short.headers), body)
    assert serialize(short, close=False) == serialize(long, close=False)
    assert serialize(short, close=True) == serialize(long, close=True)


# -- the access log -------------------------------------------------------------------------------


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    [record] = caplog.records
    return vars(record)


@pytest.mark.parametrize("error", [None, HeadraceError(ErrorCode.NOT_FOUND, "no")])
def test_each_call_is_a_line_where_that_is_wanted(
    error: HeadraceError | None, caplog: pytest.LogCaptureFixture
) -> None:
    front = Front(access_log=True)
    with caplog.at_level(logging.INFO, logger="headrace.access"):
        reply = front.answered(numbers(1)) if error is None else front.failed(error)
    line = logged(caplog)
    wanted = ("protocol", "model", "version", "request_id", "status", "duration_us")
    assert [line[key] for key in wanted] == ["http", "m", "1", "r-1", reply.status, 250_000]


def test_a_call_that_could_not_be_read_is_a_line_without_a_duration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    front = Front(access_log=True).front
    with caplog.at_level(logging.INFO, logger="headrace.access"):
        front.reply(plan(), None, None, None, HeadraceError(ErrorCode.INVALID_ARGUMENT, "no"))
    line = logged(caplog)
    assert (line["request_id"], line["duration_us"]) == ("", None)


def test_without_an_access_log_nothing_is_written(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="headrace.access"):
        Front().answered(numbers(1))
    assert caplog.records == []


# -- how a request was routed ----------------------------------------------------------------------

MARKS = [
    (b"x-headrace-version", b"2"),
    (b"x-headrace-arm", b"candidate"),
    (b"x-headrace-prediction-id", b"01890a5d-ac96-7d5f-8d5a-000000000001"),
]


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("encoding", [ALL_JSON, OutputEncoding((True,))])
def test_who_answered_by_a_plan_is_in_the_headers_too(
    encoding: OutputEncoding, close: bool
) -> None:
    front = Front()
    assignment = Assignment(7, "candidate", "2", 0.25, "split")
    prediction = Prediction(
        front.model, [numbers(2)], assignment=assignment, prediction_id=MARKS[2][1].decode()
    )
    reply = front.front.reply(plan(), request(), encoding, prediction, None)
    head, _, body = serialize(reply, close=close).partition(b"\r\n\r\n")
    assert body == reply.body
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    fields = [tuple(line.split(b": ", 1)) for line in lines[1:]]
    assert [one for one in fields if one[0].startswith(b"x-")] == MARKS
    told = [one for one in fields if one != (b"connection", b"close")]
    assert sorted(told) == sorted(reply.all_headers()), "both ways out say the same"
    assert (b"content-length", str(len(body)).encode()) in fields


def test_without_a_plan_nothing_is_marked() -> None:
    reply = Front().answered(numbers(2))
    assert b"x-headrace" not in serialize(reply, close=False)
    assert [name for name, _ in reply.all_headers()] == [b"content-type", b"content-length"]
