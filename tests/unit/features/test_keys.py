"""Names of rows in the store, byte by byte: a change here is rows that nobody finds."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.columns import Int64, String
from featurecache.errors import RowError
from featurecache.rows.keys import MAX_ID_BYTES, escape, ids_of, key_frame, key_values
from featurecache.sources.cluster_slots import slot_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).map(str.encode)


def _key(*parts: bytes | int) -> bytes:
    prefix, suffix = key_frame("flights", "airport", "airport_weather")
    (one,) = ids_of([[part] for part in parts])
    return prefix + one + suffix


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        (
            (b"JFK",),
            "68723a666c69676874733a7b616972706f72743a4a464b7d3a616972706f72745f77656174686572",
        ),
        ((b"a-b_c.9",), b"hr:flights:{airport:a-b_c.9}:airport_weather".hex()),
        ((b"JFK", b"LAX"), b"hr:flights:{airport:JFK|LAX}:airport_weather".hex()),
        ((b"a|b", b"c"), b"hr:flights:{airport:a%7Cb|c}:airport_weather".hex()),
        ((b"a", b"b|c"), b"hr:flights:{airport:a|b%7Cc}:airport_weather".hex()),
        ((b"50%",), b"hr:flights:{airport:50%25}:airport_weather".hex()),
        (
            (b"{x}:y z\n\x00\x7f/",),
            b"hr:flights:{airport:%7Bx%7D%3Ay%20z%0A%00%7F%2F}:airport_weather".hex(),
        ),
        (
            ("Zürich €".encode(),),
            b"hr:flights:{airport:Z%C3%BCrich%20%E2%82%AC}:airport_weather".hex(),
        ),
        ((0,), b"hr:flights:{airport:0}:airport_weather".hex()),
        (
            (-42, b"UA", 2**63 - 1),
            b"hr:flights:{airport:-42|UA|9223372036854775807}:airport_weather".hex(),
        ),
    ],
)
def test_golden_keys(parts: tuple[bytes | int, ...], key: str) -> None:
    assert _key(*parts).hex() == key


def test_an_id_has_no_second_spelling() -> None:
    assert escape(b"%41") == b"%2541"  # not A, whoever decodes it
    assert _key(b"1") == _key(1)  # the same bytes; one entity's keys have one type


def test_ids_up_to_256_bytes_before_escaping() -> None:
    assert escape(b"x" * MAX_ID_BYTES) == b"x" * 256
    assert len(escape("é".encode() * 128)) == 3 * 256
    for long in (b"x" * 257, "é".encode() * 128 + b"x"):
        with pytest.raises(RowError, match="a key of 257 bytes: at most 256 are possible"):
            escape(long)


def test_what_names_no_entity() -> None:
    with pytest.raises(RowError, match="an empty key names no entity"):
        escape(b"")
    with pytest.raises(
        RowError, match=re.escape(r"a key that is not UTF-8 (byte 1): b'a\xff'")
    ) as refused:
        escape(b"a\xff")
    assert refused.value.__cause__ is None
    with pytest.raises(RowError, match="not UTF-8"):
        escape("é".encode()[:1])
    with pytest.raises(RowError, match="an empty key"):
        ids_of([[b"a"], [b""]])


def test_key_columns_as_they_come() -> None:
    assert key_values(String, np.array(["é", b"x"], object)) == ["é".encode(), b"x"]
    assert key_values(Int64, np.array([[-1], [5]])) == [-1, 5]
    assert ids_of(
        [key_values(Int64, np.array([3, -4])), key_values(String, np.array(["a", "b"], object))]
    ) == [b"3|a", b"-4|b"]
    assert ids_of([[]]) == []
    with pytest.raises(ValueError, match="zip"):
        ids_of([[b"a"], [b"b", b"c"]])


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=2, max_size=6, unique=True))
def test_different_entities_have_different_ids(entities: list[tuple[bytes, bytes]]) -> None:
    ids = ids_of([[one for one, _ in entities], [two for _, two in entities]])
    assert len(set(ids)) == len(entities)


@given(TEXTS)
def test_ids_are_plain_and_can_be_read_back(part: bytes) -> None:
    escaped = escape(part)
    assert re.fullmatch(rb"([A-Za-z0-9_.\-]|%[0-9A-F]{2})+", escaped)
    assert re.sub(rb"%(..)", lambda hit: bytes.fromhex(hit[1].decode()), escaped) == part


@given(TEXTS, TEXTS)
def test_all_views_of_an_entity_lie_in_one_slot(one: bytes, other: bytes) -> None:
    (name,) = ids_of([[one], [other]])
    slots = set()
    for view in ("a", "a_view_of_another_name"):
        prefix, suffix = key_frame("p", "route", view)
        slots.add(slot_of(prefix + name + suffix))
    assert len(slots) == 1
