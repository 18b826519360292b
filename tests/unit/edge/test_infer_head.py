from __future__ import annotations

import pytest

from gateway.edge.infer_head import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_HEADS,
    HeadMemory,
    InferPlan,
    content_length,
    plan_of_head,
    wanted_compression,
    without_upgrade,
)

Headers = list[tuple[bytes, bytes]]

PLAIN: Headers = [(b"host", b"h"), (b"content-length", b"12")]


def planned(
    url: bytes = b"/v2/models/m/infer", headers: Headers = PLAIN, keep_alive: bool = True
) -> InferPlan | None:
    return plan_of_head(url, headers, keep_alive=keep_alive)


# -- which compression the caller wants -----------------------------------------------------------


@pytest.mark.parametrize(
    ("accept_encoding", "compression"),
    [
        ("", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip", "gzip"),
        ("GZip", "gzip"),
        ("br, zstd", ""),
        ("identity", ""),
        ("gzip;q=0.5", "gzip"),
        ("gzip; q=0.001", "gzip"),
        ("gzip;q=0", ""),
        ("gzip; q=0", ""),
        ("gzip;q=0.", ""),
        ("gzip;q=0.000", ""),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=1.0;q=0", "gzip"),
        ("xgzip, gzipx", ""),
        (" gzip ,", "gzip"),
        (",,", ""),
    ],
)
def test_the_answer_is_compressed_as_the_caller_allows(
    accept_encoding: str, compression: str
) -> None:
    assert wanted_compression(accept_encoding) == compression


# -- plans ----------------------------------------------------------------------------------------


def test_a_plain_head_says_all_there_is_to_know() -> None:
    headers = [*PLAIN, (b"accept-encoding", b"gzip"), (b"inference-header-content-length", b"7")]
    assert planned(b"/v2/models/m.a-b_1/versions/3/infer", headers, keep_alive=False) == InferPlan(
        model="m.a-b_1",
        version="3",
        content_length=12,
        header_length=7,
        keep_alive=False,
        compression="gzip",
        headers=headers,
    )


def test_without_options_everything_is_empty() -> None:
    assert planned() == InferPlan("m", "", 12, None, True, "", headers=PLAIN)


@pytest.mark.parametrize(
    "url",
    [
        b"/v2/models/m",
        b"/v2/models/m/infer/",
        b"/v2/models/m/infer?x=1",
        b"/v2/models//infer",
        b"/v2/models/a%20b/infer",
        b"/v2/models/m/versions//infer",
        b"/v2/models/m/versions/1/2/infer",
        b"/V2/models/m/infer",
        b"//v2/models/m/infer",
        b"http://h/v2/models/m/infer",
    ],
)
def test_other_urls_take_the_route(url: bytes) -> None:
    assert planned(url) is None


@pytest.mark.parametrize(
    "header",
    [
        (b"transfer-encoding", b"chunked"),
        (b"content-encoding", b"gzip"),
        (b"expect", b"100-continue"),
        (b"upgrade", b"h2c"),
        (b"inference-header-content-length", b""),
        (b"inference-header-content-length", b"-1"),
        (b"inference-header-content-length", b"1.0"),
        (b"inference-header-content-length", b"9" * 13),
    ],
)
def test_unusual_headers_take_the_route(header: tuple[bytes, bytes]) -> None:
    assert planned(headers=[*PLAIN, header]) is None


def test_two_json_lengths_take_the_route() -> None:
    twice = [(b"inference-header-content-length", b"1")] * 2
    assert planned(headers=[*PLAIN, *twice]) is None


def test_a_body_of_unknown_length_takes_the_route() -> None:
    assert planned(headers=[(b"host", b"h")]) is None
    assert content_length([]) is None


# -- memory ---------------------------------------------------------------------------------------


def a_plan() -> InferPlan:
    plan = planned()
    assert plan is not None
    return plan


def come(memory: HeadMemory, head: bytes, times: int = 2) -> None:
    for _ in range(times):
        memory.remember(head, a_plan())


def test_a_head_is_remembered_byte_by_byte() -> None:
    memory = HeadMemory()
    come(memory, b"POST a")
    assert memory.plan_of(b"POST a") == a_plan()
    assert memory.plan_of(b"POST A") is None


def test_a_head_is_remembered_the_second_time_that_it_comes() -> None:
    memory = HeadMemory()
    come(memory, b"POST a", times=1)
    assert memory.plan_of(b"POST a") is None
    come(memory, b"POST a", times=1)
    assert memory.plan_of(b"POST a") is not None


def test_heads_that_never_come_again_drive_nobody_out() -> None:
    memory = HeadMemory()
    come(memory, b"steady")
    for number in range(5 * MAX_HEADS):
        come(memory, b"x-request-id: %d" % number, times=1)
    assert memory.plan_of(b"steady") is not None
    assert len(memory._plans) == 1
    assert len(memory._seen) <= MAX_HEADS


def test_a_long_head_is_not_remembered() -> None:
    memory = HeadMemory()
    come(memory, b"x" * MAX_HEAD_BYTES)
    come(memory, b"y" * (MAX_HEAD_BYTES + 1))
    assert memory.plan_of(b"x" * MAX_HEAD_BYTES) is not None
    assert memory.plan_of(b"y" * (MAX_HEAD_BYTES + 1)) is None


@pytest.mark.parametrize(("more", "is_remembered"), [(0, True), (1, False)])
def test_a_head_of_many_headers_is_not_remembered(more: int, is_remembered: bool) -> None:
    headers = [*PLAIN, *[(b"a", b"")] * (MAX_HEADERS - len(PLAIN) + more)]
    memory, plan = HeadMemory(), planned(headers=headers)
    assert plan is not None
    for _ in range(3):
        memory.remember(b"POST a", plan)
    assert (memory.plan_of(b"POST a") is not None) == is_remembered


def test_memory_is_bounded_and_starts_again_when_it_is_full() -> None:
    memory = HeadMemory()
    for number in range(MAX_HEADS):
        come(memory, b"%d" % number)
    assert memory.plan_of(b"0") is not None
    come(memory, b"one more")
    assert memory.plan_of(b"0") is None
    assert memory.plan_of(b"one more") is not None


# -- upgrades -------------------------------------------------------------------------------------


def test_an_offer_to_upgrade_is_renamed_in_the_head_only() -> None:
    head = b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nhost: h\r\n\r\n"
    body = b"\nupgrade: not a header"
    assert without_upgrade(head + body, len(head)) == (
        b"POST / HTTP/1.1\r\nx-upgrade: h2c\r\nhost: h\r\n\r\n" + body
    )


@pytest.mark.parametrize(
    "head",
    [
        b"POST /upgrade HTTP/1.1\r\nhost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nx-upgrade: a\r\nupgrade-insecure-requests: 1\r\n\r\n",
    ],
)
def test_a_head_without_one_stays_as_it_is(head: bytes) -> None:
    assert without_upgrade(head, len(head)) is head
