from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from featurecache.errors import SourceError
from featurecache.sources.cluster_slots import SLOTS, Redirect, redirect_of, slot_of, slot_owners
from featurecache.sources.dialing import Address

ASKED = Address("10.0.0.9", 7000)
HERE, THERE = Address("10.0.0.1", 7001), Address("10.0.0.2", 7002)


@given(st.lists(st.sampled_from([b"{", b"}", b"a", b"\0\xff", b"hr"]), max_size=8).map(b"".join))
@example(b"123456789")
@example(b"foo{}{bar}")
@example(b"foo{{bar}}zap")
def test_slots_are_those_of_another_client(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)


def test_owners_of_ranges_and_of_gaps() -> None:
    owners = slot_owners(
        [
            [0, 99, [b"10.0.0.1", 7001, b"id", []], [b"10.0.0.5", 7005, b"replica", []]],
            [200, SLOTS - 1, [b"10.0.0.2", 7002, b"id", []]],
        ],
        ASKED,
    )
    assert len(owners) == SLOTS
    assert owners[:100] == [HERE] * 100
    assert owners[100:200] == [None] * 100
    assert owners[200:] == [THERE] * (SLOTS - 200)


@pytest.mark.parametrize("host", [b"", b"?", None])
def test_a_node_that_does_not_know_its_host_is_the_one_that_was_asked(host: bytes | None) -> None:
    assert slot_owners([[0, 0, [host, 7001, b"id"]]], ASKED)[0] == Address("10.0.0.9", 7001)


@pytest.mark.parametrize(
    "reply",
    [
        b"OK",
        5,
        [5],
        [[0, SLOTS, [b"h", 1]]],
        [[-1, 5, [b"h", 1]]],
        [[9, 5, [b"h", 1]]],
        [[0, 5]],
        [[0, 5, [b"h"]]],
        [[0, 5, [b"h", b"x"]]],
    ],
)
def test_what_is_no_table_is_refused(reply: object) -> None:
    with pytest.raises(SourceError, match="no table of slots"):
        slot_owners(reply, ASKED)


def test_redirections() -> None:
    assert redirect_of("MOVED 3999 10.0.0.1:7001", ASKED) == Redirect(3999, HERE, True)
    assert redirect_of("ASK 1 10.0.0.2:7002", ASKED) == Redirect(1, THERE, False)
    assert redirect_of("MOVED 1 :7003", ASKED) == Redirect(1, Address("10.0.0.9", 7003), True)
    assert redirect_of("MOVED 1 [::1]:7", ASKED) == Redirect(1, Address("::1", 7), True)
    for other in ("", "MOVED", "MOVED 1", "MOVED x h:1", "MOVED 1 h:x", "ERR 1 h:1", "TRYAGAIN"):
        assert redirect_of(other, ASKED) is None
