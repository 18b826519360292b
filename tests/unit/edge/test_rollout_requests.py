"""Conditions, parameters and bodies: what is not understood is refused, and nothing happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request

from gateway.edge import rollout_requests
from gateway.errors import ErrorCode, HeadraceError
from tests.support import loops
from tests.unit.edge.rollout_admin import (
    PATH,
    PROPOSAL,
    WHY,
    World,
    error,
    in_world,
)

# -- conditions -----------------------------------------------------------------------------------


def test_somebody_was_first(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit()
        path = f"{PATH}?reason=r"
        unconditional = await world.ask("PUT", path, PROPOSAL)
        assert unconditional.status_code == 428
        assert 'If-Match: "2"' in error(unconditional)
        paused = await world.ask("POST", f"{PATH}/pause", WHY, if_match='"2"')
        for lost in (
            await world.ask("PUT", path, PROPOSAL, if_match='"2"'),
            await world.ask("PUT", path, PROPOSAL, if_none_match="*"),
            await world.ask("POST", f"{PATH}/rollback", WHY, if_match='"2"'),
        ):
            assert (lost.status_code, lost.headers["etag"]) == (412, '"3"')
            assert lost.json()["current"] == paused.json()
            assert error(lost)
        none = await world.ask("PUT", "/v2/rollouts/m?reason=r", PROPOSAL, if_match='"2"')
        assert (none.status_code, none.json()["current"]) == (412, None)
        assert "etag" not in none.headers

    in_world(tmp_path, test)


def test_of_two_operators_at_once_one_is_told(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit()
        answers = await asyncio.gather(
            world.ask("POST", f"{PATH}/pause", WHY), world.ask("POST", f"{PATH}/rollback", WHY)
        )
        made, lost = sorted(answers, key=lambda one: one.status_code)
        assert (made.status_code, lost.status_code) == (200, 412)
        assert lost.json()["current"] == made.json()
        assert len(world.actions()) == 3

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("method", "headers", "words"),
    [
        ("PUT", {"if-match": "7"}, "double quotes"),
        ("PUT", {"if-match": 'W/"7"'}, "double quotes"),
        ("PUT", {"if-match": '"7", "8"'}, "double quotes"),
        ("PUT", {"if-match": "*"}, "double quotes"),
        ("PUT", {"if-match": '"0"'}, "double quotes"),
        ("PUT", {"if-match": ""}, "double quotes"),
        ("PUT", {"if-none-match": '"7"'}, "can only be *"),
        ("PUT", {"if-none-match": "*", "if-match": '"1"'}, "wants none"),
        ("POST", {"if-none-match": "*"}, "for a first plan"),
        ("POST", {"idempotency-key": "a b"}, "visible ASCII"),
        ("POST", {"idempotency-key": ""}, "visible ASCII"),
        ("POST", {"x-headrace-author": ""}, "say who you are"),
        ("PUT", {"x-headrace-reason": "other"}, "differ"),
    ],
)
def test_headers_that_are_not_understood_are_refused(
    tmp_path: Path, method: str, headers: dict[str, str], words: str
) -> None:
    async def test(world: World) -> None:
        path = f"{PATH}?reason=r" if method == "PUT" else f"{PATH}/start"
        body = PROPOSAL if method == "PUT" else WHY
        answer = await world.ask(method, path, body, **headers)
        assert answer.status_code == 400
        assert words in error(answer)
        assert world.store.writes == 0

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    "query", ["start=yes", "start=", "dryrun=true", "start=true&start=true", "reason=a&reason=b"]
)
def test_parameters_that_are_not_understood_are_refused(tmp_path: Path, query: str) -> None:
    async def test(world: World) -> None:
        answer = await world.ask("PUT", f"{PATH}?{query}", PROPOSAL, x_headrace_reason="r")
        assert answer.status_code == 400
        assert "parameter" in error(answer)
        assert world.store.writes == 0

    in_world(tmp_path, test)


def test_no_event_is_a_dry_run(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.submit()
        answer = await world.ask("POST", f"{PATH}/rollback?dry_run=true", WHY)
        assert answer.status_code == 400
        assert "takes no parameters" in error(answer)

    in_world(tmp_path, test)


ETAG_LIKE = st.one_of(
    st.text(),
    st.from_regex(r'\A(W/)?"?[0-9]{0,20}"?\Z'),
    st.integers(min_value=-5).map(lambda revision: f'"{revision}"'),
)


@given(ETAG_LIKE)
@example('"1"\n')
@example('"\N{ARABIC-INDIC DIGIT ONE}"')
@example('"01"')
def test_only_the_etag_of_a_revision_is_one(etag: str) -> None:
    raw = etag.encode("utf-8", "surrogatepass")
    scope = {"headers": [(b"if-match", raw)]}
    text = etag.strip()
    is_one = (
        text[:1] == text[-1:] == '"'
        and text[1:-1] in {str(number) for number in _numbers(text[1:-1])}
        and len(text) <= 18
    )
    if is_one:
        found = rollout_requests.conditions(scope)
        assert text == f'"{found.revision}"'
        assert not found.must_be_new
    else:
        with pytest.raises(HeadraceError) as raised:
            rollout_requests.conditions(scope)
        assert raised.value.code is ErrorCode.INVALID_ARGUMENT


def _numbers(text: str) -> Iterator[int]:
    """The positive number that a text of ASCII digits is."""
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0:
        yield int(text)


@given(st.lists(st.sampled_from([b'"1"', b'"2"', b"*", b""]), min_size=2, max_size=3))
def test_a_condition_is_sent_once(values: list[bytes]) -> None:
    with pytest.raises(HeadraceError) as raised:
        rollout_requests.conditions({"headers": [(b"if-match", value) for value in values]})
    assert "send it once" in raised.value.message


# -- bodies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, 201),
        ({"content-type": "Application/JSON; charset=UTF-8"}, 201),
        ({}, 201),
        ({"content-encoding": "identity"}, 201),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json-patch+json"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": ""}, 415),
        ({"content-encoding": "gzip"}, 415),
    ],
)
def test_only_plain_json_is_taken(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async def test(world: World) -> None:
        body = json.dumps(PROPOSAL).encode()
        answer = await world.ask("PUT", f"{PATH}?reason=r", body, **headers)
        assert answer.status_code == status, answer.text
        if status == 415:
            assert "body" in error(answer)

    in_world(tmp_path, test)


@pytest.mark.parametrize("is_declared", [True, False])
def test_bodies_are_bounded(tmp_path: Path, is_declared: bool) -> None:
    async def test(world: World) -> None:
        sent: list[int] = []

        async def endless() -> AsyncIterator[bytes]:
            for number in range(100):
                sent.append(number)
                yield b" " * 65_536

        body = b" " * (256 * 1024 + 1) if is_declared else endless()
        answer = await world.ask("PUT", f"{PATH}?reason=r", body)
        assert answer.status_code == 400
        assert "more than 262144 bytes" in error(answer)

    in_world(tmp_path, test)


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_requests, "BODY_TIMEOUT_S", 0.0)

    async def test() -> None:
        async def receive() -> Any:
            await asyncio.Event().wait()

        request = Request({"type": "http", "method": "PUT", "headers": []}, receive)
        with pytest.raises(rollout_requests.WireError) as raised:
            await rollout_requests.json_body(request)
        assert raised.value.status == 408

    loops.run(test)


@pytest.mark.parametrize(
    "body", [b"[]", b'{"reason": 1}', b'{"why": "x"}', b"\xff", b'{"step": 1.5}', b"[" * 9999]
)
def test_words_of_an_event_that_are_none(tmp_path: Path, body: bytes) -> None:
    async def test(world: World) -> None:
        await world.submit()
        answer = await world.ask("POST", f"{PATH}/pause", body)
        assert answer.status_code == 400
        assert "reason" in error(answer)

    in_world(tmp_path, test)
