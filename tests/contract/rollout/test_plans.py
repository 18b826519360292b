"""Plans in the store: who may write over what, and what is said about a document that is none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rollout.plan import MAX_DOCUMENT_BYTES, Event, Plan, encode
from rollout.ports import Conflict, CorruptPlanError, Stored, Written
from tests.support.loops import run
from tests.unit.rollout.plans import after, draft, proposal

FIRST = draft(now_s=1.0)
SECOND = after(FIRST, Event.START)
THIRD = after(SECOND, Event.PAUSE)
OTHER_SECOND = msgspec.structs.replace(SECOND, author="somebody else")


def stored(plan: Plan) -> Stored:
    return Stored(plan, encode(plan))


def test_a_plan_comes_back_as_it_was_written(place: Any) -> None:
    async def test() -> None:
        store, reader = place.connect(), place.connect()
        assert await store.models() == []
        assert await store.plan("delays") is None
        assert await store.write(FIRST, 0, 0) == Written()
        named = draft(proposal(model="a.B_c-1"))
        assert await store.write(named, 0, 0) == Written()
        assert await reader.plan("delays") == stored(FIRST)
        assert await reader.plan("a.B_c-1") == stored(named)
        assert await reader.models() == ["a.B_c-1", "delays"]
        await store.close()
        await reader.close()

    run(test)


def test_whoever_read_an_older_revision_learns_what_is_there(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        assert await store.write(SECOND, 1, 0) == Conflict(None)
        assert await store.plan("delays") is None
        assert await store.write(FIRST, 0, 0) == Written()
        assert await store.write(SECOND, 1, 0) == Written()
        assert await store.write(OTHER_SECOND, 1, 0) == Conflict(stored(SECOND))
        assert await store.write(draft(now_s=2.0), 0, 0) == Conflict(stored(SECOND))
        assert await store.plan("delays") == stored(SECOND)
        await store.close()

    run(test)


def test_the_same_write_again_is_one_write(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        await store.write(FIRST, 0, 0)
        assert await store.write(FIRST, 0, 0) == Written()
        assert await store.write(SECOND, 1, 7) == Written()
        assert await store.write(SECOND, 1, 7) == Written()
        assert await store.write(THIRD, 2, 7) == Written()
        assert await store.write(SECOND, 1, 7) == Conflict(stored(THIRD))
        await store.close()

    run(test)


def test_after_a_later_leader_has_written_no_earlier_one_writes(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        await store.write(FIRST, 0, 0)
        assert await store.write(SECOND, 1, 8) == Written()
        assert await store.write(THIRD, 2, 7) == Conflict(stored(SECOND), newer_fence=8)
        assert await store.plan("delays") == stored(SECOND)
        assert await store.write(THIRD, 2, 0) == Written(), "a person has no lease to lose"
        fourth = after(THIRD, Event.RESUME)
        assert await store.write(fourth, 3, 7) == Conflict(stored(THIRD), newer_fence=8)
        assert await store.write(fourth, 3, 8) == Written()
        # Fences are larger than what a Lua script writes in full by itself.
        large = 1_800_000_000_000
        fifth, sixth = after(fourth, Event.PAUSE), after(fourth, Event.PAUSE, Event.RESUME)
        assert await store.write(fifth, 4, large + 1) == Written()
        assert await store.write(sixth, 5, large) == Conflict(stored(fifth), newer_fence=large + 1)
        await store.close()

    run(test)


def test_what_does_not_follow_is_the_callers_mistake(place: Any) -> None:
    async def test() -> None:
        store = place.connect()
        with pytest.raises(ValueError, match="revision 2 cannot be written over revision 0"):
            await store.write(SECOND, 0, 0)
        with pytest.raises(ValueError, match="-1 is no fence"):
            await store.write(FIRST, 0, -1)
        assert await store.models() == []
        await store.close()

    run(test)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{oops", "this is no plan"),
    "cut short": (encode(FIRST)[:-20], "this is no plan"),
    "no Unicode": (b'{"model": "\xff"}', "this is no plan"),
    "a number": (b"5", "this is no plan"),
    "another format": (b'{"format": 2, "revision": 1}', "is of format 2"),
    "no revision": (encode(FIRST).replace(b'"revision":1', b'"revision":"1"'), "this is no plan"),
    "of another model": (encode(draft(proposal(model="fares"))), "plan of model fares"),
    "too long": (b" " * (MAX_DOCUMENT_BYTES + 5), "more than"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_document_that_is_no_plan_is_told_and_left(place: Any, damage: str) -> None:
    document, words = DAMAGED[damage]

    async def test() -> None:
        store = place.connect()
        place.put_document("delays", document)
        asked: list[Callable[[], Any]] = [
            lambda: store.plan("delays"),
            lambda: store.write(FIRST, 0, 3),
            lambda: store.plan("delays"),
        ]
        for ask in asked:
            with pytest.raises(CorruptPlanError) as raised:
                await ask()
            assert raised.value.model == "delays"
            seen = document[: MAX_DOCUMENT_BYTES + 1]  # of a longer one no more is read
            assert raised.value.digest == hashlib.sha256(seen).hexdigest()
        assert words in raised.value.reason
        place.put_document("delays", encode(FIRST))
        assert await store.write(SECOND, 1, 3) == Written()
        await store.close()

    run(test)
