"""A remembered head must be the head of a request, and both ways through the port must read a head alike."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import pytest

from tests.support.raw_http import RawHttp, floats_json, infer_path, post_infer
from tests.support.server_process import ServerProcess

Dial = Callable[[], RawHttp]
BODY = floats_json()
GOOD = post_infer("identity", BODY)


@pytest.mark.parametrize("junk", [b"\n\r\n\r\n", b"\r\r\n\r\n", b"\n\n\r\n\r\n"])
def test_line_breaks_before_a_request_are_not_remembered_as_its_head(
    dial: Dial, junk: bytes
) -> None:
    assert dial().ask(junk + GOOD).status == 200
    other = dial()
    other.send(junk + GOOD[:30])
    other.send(GOOD[30:])
    assert other.receive().status == 200
    headless = dial()
    headless.send(junk + BODY)
    assert headless.receive().status == 400


@pytest.mark.parametrize(("first", "second"), [("gzip", "identity"), ("identity", "gzip")])
def test_repeated_accept_encoding_is_one_list_in_the_lane_and_on_the_route(
    dial: Dial, first: str, second: str
) -> None:
    many = floats_json(rows=400)
    wishes = [("accept-encoding", first), ("accept-encoding", second)]
    lane = post_infer("identity", many, wishes)
    route = lane.replace(infer_path("identity").encode(), infer_path("identity").encode() + b"?a=1")
    for request in (lane, route):
        response = dial().ask(request)
        assert response.headers.get("content-encoding") == "gzip"
        assert json.loads(gzip.decompress(response.body))["model_name"] == "identity"


def test_the_refusal_of_a_large_body_names_the_setting(server: ServerProcess, dial: Dial) -> None:
    head = f"POST {infer_path('identity')} HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n"
    assert "(http.max_body_bytes)" in dial().ask(head.encode()).error
