"""What a fetch is told: every row in its place, once, later, whatever the bytes; or one clear error."""

from __future__ import annotations

import msgspec

from tests.support.row_sources import PATIENT, Asked
from tests.support.row_stores import Store

EVERY_BYTE = bytes(range(256))


def test_rows_come_in_the_order_of_the_keys_and_none_where_there_is_none(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            store.set(b"{a}:1", b"one")
            store.set(b"{b}:2", b"two")
            store.set(b"{c}:3", b"")
            keys = [b"{c}:3", b"{none}:9", b"{b}:2", b"{a}:1", b"{a}:none"]
            assert await Asked(source, keys).rows() == [b"", None, b"two", b"one", None]
            assert await Asked(source, keys[::-1]).rows() == [None, b"one", b"two", None, b""]

    store.run(test)


def test_any_bytes_are_keys_and_rows(store: Store) -> None:
    async def test() -> None:
        keys = [EVERY_BYTE, b"\r\n$3\r\nabc\r\n", b"\0", "hr:{Zürich}:v".encode(), b"}{", b"{}x"]
        async with store.source() as source:
            for number, key in enumerate(keys):
                store.set(key, EVERY_BYTE + b"%d" % number)
            rows = await Asked(source, keys, track=True).rows()
            assert rows == [EVERY_BYTE + b"%d" % number for number in range(len(keys))]

    store.run(test)


def test_large_rows_come_whole_and_do_not_mix_with_small_ones(store: Store) -> None:
    async def test() -> None:
        large = bytes(range(251)) * 33_000  # 8 MB
        async with store.source() as source:
            store.set(b"large", large)
            store.set(b"small", b"s")
            asked = [Asked(source, keys) for keys in ([b"small"], [b"large", b"small"], [b"small"])]
            assert await asked[0].rows() == [b"s"]
            assert await asked[1].rows() == [large, b"s"]
            assert await asked[2].rows() == [b"s"]

    store.run(test)


def test_500_keys_at_once(store: Store) -> None:
    async def test() -> None:
        keys = [b"hr:p:{airport:%d}:weather" % number for number in range(500)]
        async with store.source() as source:
            for key in keys[::3]:
                store.set(key, b"row of " + key)
            expected = [b"row of " + key if n % 3 == 0 else None for n, key in enumerate(keys)]
            for track in (True, False):
                assert await Asked(source, keys, track=track).rows() == expected

    store.run(test)


def test_many_fetches_at_once_each_get_their_own(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            for number in range(100):
                store.set(b"k%d" % number, b"%d" % number)
            asked = [
                Asked(source, [b"k%d" % number, b"none"], track=number % 2 == 0)
                for number in range(100)
            ]
            for number, one in enumerate(asked):
                assert await one.rows() == [b"%d" % number, None]

    store.run(test)


def test_no_keys_and_too_many_are_refused_with_the_limit(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            for keys in ([], [b"%d" % number for number in range(501)]):
                assert "1 to 500 keys" in await Asked(source, keys).error()
            assert await Asked(source, [b"x"]).rows() == [None]

    store.run(test)


def test_more_fetches_than_the_limit_are_refused_and_the_others_answered(store: Store) -> None:
    async def test() -> None:
        limits = msgspec.structs.replace(PATIENT, max_waiting_fetches=3)
        async with store.source(limits) as source:
            store.set(b"k", b"v")
            asked = [Asked(source, [b"k"]) for _ in range(5)]
            for one in asked[3:]:
                assert "too much waits already" in await one.error()
            for one in asked[:3]:
                assert await one.rows() == [b"v"]
            assert await Asked(source, [b"k"]).rows() == [b"v"]

    store.run(test)


def test_closing_fails_what_waits_and_what_comes_later(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            assert source.is_up
            waiting = [Asked(source, [b"k%d" % number]) for number in range(3)]
            await source.close()
            assert not source.is_up
            assert not source.tracks
            for one in [*waiting, Asked(source, [b"late"])]:
                assert "closed" in await one.error()
            await source.close()
            await source.start()
            assert not source.is_up, "what was closed stays closed"

    store.run(test)


def test_whether_changes_are_told_is_said(store: Store) -> None:
    async def test() -> None:
        async with store.source() as source:
            assert source.tracks is store.tracks

    store.run(test)
