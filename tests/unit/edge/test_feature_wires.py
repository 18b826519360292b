"""The same rows on both wires come to the same plain values, and both refuse alike before anything is read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.access import new_key
from gateway.core.quota import QuotaLimits
from gateway.edge.access import KeyHolder
from gateway.edge.feature_push import PUSH_PATH, PushMethod, json_reader, methods
from gateway.edge.grpc_access import guarded
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import PushOutcome
from gateway.ports import PushedRows, ReadRows
from protos import headrace
from tests.support.feature_pushes import grpc_row

T = TypeVar("T")
MAX_ROWS = 5

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = (
    st.none()
    | st.booleans()
    | INT64
    | FLOATS
    | st.text()
    | st.lists(FLOATS, min_size=1)
    | st.lists(INT64, min_size=1)
)
NAMES = st.text(min_size=1).filter(lambda name: name != "event_time")
ROWS = st.lists(
    st.builds(
        lambda values, time: values | time,
        st.dictionaries(NAMES, VALUES),
        st.just({}) | st.fixed_dictionaries({"event_time": INT64 | st.text()}),
    ),
    max_size=MAX_ROWS,
)


class Pusher:
    """Reads what it is given, and remembers it."""

    max_bytes = 1_000_000

    def __init__(self, refuses: HeadraceError | None = None) -> None:
        self._refuses = refuses
        self.read: list[PushedRows] = []

    def check(self) -> None:
        if self._refuses is not None:
            raise self._refuses

    async def push(self, read: ReadRows) -> PushOutcome:
        self.read.append(read(MAX_ROWS))
        return PushOutcome(created=1, older=2, duplicates=3)


def ask(method: Callable[[bytes], Any], message: bytes) -> headrace.PushResponse:
    async def answer() -> bytes:
        found: bytes = await method(message)
        return found

    return headrace.PushResponse.FromString(asyncio.run(answer()))


def request(view: str, rows: list[dict[str, Any]]) -> bytes:
    made = headrace.PushRequest(view=view, rows=[grpc_row(row) for row in rows])
    return made.SerializeToString()


def refused(call: Callable[[], object]) -> HeadraceError:
    with pytest.raises(HeadraceError) as found:
        call()
    return found.value


def holder(*push: str, models: tuple[str, ...] = ()) -> KeyHolder:
    from datetime import UTC, datetime

    key, _ = new_key("k", now=datetime.now(UTC), push=push, models=models)
    return KeyHolder(key, QuotaLimits(None, None, None), 0.0)


@given(ROWS)
def test_both_wires_mean_the_same(rows: list[dict[str, Any]]) -> None:
    pusher = Pusher()
    reply = ask(PushMethod(pusher), request("v", rows))
    assert (reply.created, reply.newer, reply.older, reply.duplicates) == (1, 0, 2, 3)
    by_json = json_reader("v", json.dumps({"rows": rows}).encode())(MAX_ROWS)
    assert pusher.read == [("v", rows)] == [by_json]
    for one, other in zip(pusher.read[0][1], by_json[1], strict=True):
        assert {name: type(value) for name, value in one.items()} == {
            name: type(value) for name, value in other.items()
        }


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (json_reader("v", data), PushMethod(Pusher())._reader(data)):
        try:
            read(MAX_ROWS)
        except HeadraceError as error:
            found = error
        else:
            continue
        assert found.code is ErrorCode.INVALID_ARGUMENT
        assert found.message


@pytest.mark.parametrize("rows", [MAX_ROWS, MAX_ROWS + 1])
def test_the_bound_of_rows_is_the_same(rows: int) -> None:
    empty: list[dict[str, Any]] = [{}] * rows
    calls: list[Callable[[], object]] = [
        lambda: json_reader("v", json.dumps({"rows": empty}).encode())(MAX_ROWS),
        lambda: PushMethod(Pusher())._reader(request("v", empty))(MAX_ROWS),
    ]
    if rows == MAX_ROWS:
        for call in calls:
            call()
        return
    first, second = map(refused, calls)
    assert first.message == second.message
    assert "features.max_push_rows" in first.message


def test_an_event_time_is_given_once() -> None:
    row = headrace.Row(values={"event_time": headrace.Value(int_value=1)}, event_time_us=2)
    message = headrace.PushRequest(view="v", rows=[row]).SerializeToString()
    error = refused(lambda: ask(PushMethod(Pusher()), message))
    assert error.message == "row 1: 'event_time' is given twice"


def test_what_is_too_large_or_not_wanted_is_refused_before_it_is_read() -> None:
    pusher = Pusher()
    error = refused(lambda: PushMethod(pusher)(bytes(Pusher.max_bytes + 1)))
    assert error.code is ErrorCode.TOO_LARGE
    off = Pusher(HeadraceError(ErrorCode.PERMISSION_DENIED, "off"))
    assert refused(lambda: PushMethod(off)(b"\xff")).message == "off"
    assert pusher.read == off.read == []


# ---- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granted", "view", "may"),
    [
        ((), "a", False),
        (("a",), "a", True),
        (("a",), "ab", False),
        (("a*", "b"), "abc", True),
        (("a*", "b"), "b", True),
        (("a*", "b"), "bb", False),
        (("*",), "", True),
        (("a",), "a\n", False),
    ],
)
def test_views_are_granted_by_pattern(granted: tuple[str, ...], view: str, may: bool) -> None:
    for models in ((), ("other",)):  # what a key may ask has nothing to do with it
        method = guarded(holder(*granted, models=models), PUSH_PATH, methods(Pusher())[PUSH_PATH])
        message = request(view, [])
        if may:
            assert ask(method, message).created == 1
        else:
            error = refused(lambda: ask(method, message))  # noqa: B023  called at once
            assert error.code is ErrorCode.PERMISSION_DENIED
            assert "--push" in error.message
