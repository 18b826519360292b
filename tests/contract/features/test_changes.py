"""What a source that tracks says of changed rows: every change of what was read, never before the reading's answer."""

from __future__ import annotations

import random

import pytest

from tests.support.loops import until
from tests.support.row_sources import Asked, Changes
from tests.support.row_stores import Store

KEY = b"hr:p:{a:1}:v"


@pytest.fixture
def store(tracking_store: Store) -> Store:
    return tracking_store


def test_a_row_that_changes_is_named(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            changes = Changes(source)
            store.set(KEY, b"before")
            assert await Asked(source, [KEY, b"other"], track=True).rows() == [b"before", None]
            store.set(KEY, b"after")
            await changes.of(KEY)
            assert changes.heard == [[KEY]]

    store.run(test)


def test_an_absent_row_that_appears_is_named(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            changes = Changes(source)
            assert await Asked(source, [KEY], track=True).rows() == [None]
            store.set(KEY, b"new")
            await changes.of(KEY)
            assert changes.heard == [[KEY]]

    store.run(test)


def test_rows_that_are_deleted_or_expire_are_named(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            changes = Changes(source)
            store.set(KEY, b"row")
            store.set(b"short", b"row", ttl_ms=150)
            rows = await Asked(source, [KEY, b"short"], track=True).rows()
            assert rows[0] == b"row"
            store.delete(KEY)
            await changes.of(KEY, b"short")
            assert await Asked(source, [KEY, b"short"]).rows() == [None, None]

    store.run(test)


def test_flushing_means_that_any_may_have_changed(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            changes = Changes(source)
            store.set(KEY, b"row")
            await Asked(source, [KEY], track=True).rows()
            store.flush()
            await changes.of_all()

    store.run(test)


def test_what_was_read_without_tracking_is_not_named(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            changes = Changes(source)
            await Asked(source, [b"{s}tracked"], track=True).rows()
            # Whatever a tracked fetch announces holds for that one alone.
            await Asked(source, [b"{s}untracked"], track=False).rows()
            store.set(b"{s}untracked", b"1")
            store.set(b"{s}tracked", b"1")
            await changes.of(b"{s}tracked")
            assert b"{s}untracked" not in changes.keys

    store.run(test)


def test_a_close_means_that_any_may_have_changed(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            changes = Changes(source)
            await Asked(source, [KEY], track=True).rows()
            await source.close()
            assert None in changes.heard

    store.run(test)


def test_copies_kept_by_what_is_said_agree_with_the_store_in_the_end(store: Store) -> None:
    """The point of it all: an answer is never older than the last word about its keys."""

    async def test() -> None:
        dice = random.Random(7)
        keys = [b"{%d}k" % number for number in range(12)]
        copies: dict[bytes, bytes | None] = {}

        def forget(changed: object) -> None:
            for key in keys if changed is None else list(changed):  # type: ignore[call-overload]
                copies.pop(key, None)

        def write() -> None:
            for number in range(400):
                key = dice.choice(keys)
                if number % 7 == 0:
                    store.delete(key)
                else:
                    store.set(key, b"%d" % number)

        async with store.source() as source:
            source.on_invalidated = forget
            asking = True

            def ask(wanted: list[bytes]) -> None:
                def done(rows: object, error: object) -> None:
                    assert error is None, error
                    copies.update(zip(wanted, rows, strict=True))  # type: ignore[call-overload]
                    if asking:
                        ask(random.sample(keys, 5))

                source.fetch(wanted, done, track=True)

            for _ in range(4):
                ask(random.sample(keys, 5))
            await store.write_meanwhile(write)
            asking = False
            final = {key: store.get(key) for key in keys}
            await until(lambda: all(final[key] == row for key, row in copies.items()))
            # Nothing that is still under way may spoil it.
            assert await Asked(source, keys, track=True).rows() == [final[key] for key in keys]
            assert all(final[key] == row for key, row in copies.items())

    store.run(test)
