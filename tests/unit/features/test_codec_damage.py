"""Packed rows: damage that must be seen, tables, defaults, and rows of schemas before today's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.columns import parse_type
from featurecache.rows.codec import (
    SHORTEST_ROW_BYTES,
    RowCodec,
    RowTable,
    default_column,
    explain,
    is_sound,
)
from featurecache.rows.schema import RowSchema
from tests.unit.features.packed_rows import (
    EVENT_US,
    WRITE_US,
    batches,
    encode,
    schema_of,
    texts,
)

# -- damage ---------------------------------------------------------------------------------------

ROWS = [
    encode(schema_of(a="float32", b="int64"), {"a": 1.5, "b": 7}),
    encode(schema_of(s="string", n="int8"), {"s": "clear sky over", "n": 7}),
    encode(schema_of(z="int8"), {"z": 0}, event_us=0),
]


@pytest.mark.parametrize("row", ROWS)
def test_every_flipped_bit_is_seen(row: bytes) -> None:
    assert is_sound(row)
    for bit in range(8 * len(row)):
        broken = bytearray(row)
        broken[bit // 8] ^= 1 << bit % 8
        assert not is_sound(bytes(broken)), bit
        assert "the checksum does not match" in explain(bytes(broken))


@pytest.mark.parametrize("row", ROWS)
def test_every_cut_and_every_addition_is_seen(row: bytes) -> None:
    for end in range(len(row)):
        assert not is_sound(row[:end]), end
        assert explain(row[:end])
    for start in range(1, len(row)):
        assert not is_sound(row[start:]), start
    for more in (b"\0", bytes(8), row, b"x" * 8):
        assert not is_sound(row + more)


def test_what_is_told_about_a_damaged_row() -> None:
    row = ROWS[0]
    assert explain(row[:20]) == "20 bytes: too short, or cut off"
    assert explain(row[:-1]) == f"{len(row) - 1} bytes: too short, or cut off"
    schema = int.from_bytes(row[4:8], "little")
    assert (
        explain(row[:-1] + b"?") == f"the checksum does not match (format 1, schema {schema:08x})"
    )
    for nothing in (b"", b"\0", bytes(SHORTEST_ROW_BYTES), b"\xff" * SHORTEST_ROW_BYTES):
        assert not is_sound(nothing)


@given(batches(), st.data())
def test_damage_of_any_row_is_seen(
    batch: tuple[RowSchema, dict[str, Any], dict[str, Any], np.ndarray, np.ndarray],
    data: st.DataObject,
) -> None:
    for row in RowCodec(batch[0]).encode(*batch[1:]):
        broken = bytearray(row)
        at = data.draw(st.integers(0, len(row) - 1))
        broken[at] ^= data.draw(st.integers(1, 255))
        assert not is_sound(bytes(broken))
        assert not is_sound(row[: data.draw(st.integers(0, len(row) - 1))])


# -- tables ---------------------------------------------------------------------------------------


def test_a_table_of_no_rows() -> None:
    for schema in (schema_of(a="float32", v="float32[3]"), schema_of(a="float32", s="string")):
        table = RowTable(schema, [])
        assert not table.any_null
        assert table.event_us.shape == table.write_us.shape == (0,)
        assert table.nulls("a").shape == (0,)
        for name, slot in schema.slots.items():
            assert table.column(name).shape == slot.type.shape(0)


def test_neighbouring_columns_are_one_matrix() -> None:
    schema = schema_of(a="float32", b="float32", c="float32")
    codec = RowCodec(schema)
    columns = {name: np.array([i, i + 10], "f4") for i, name in enumerate("abc")}
    table = codec.table(codec.encode(columns, {}, np.zeros(2, "i8"), 0))
    first = schema.slots["a"].offset // 4
    assert table.matrix("<f4")[:, first : first + 3].tolist() == [[0, 1, 2], [10, 11, 12]]


def test_replacing_leaves_rows_and_other_values_alone() -> None:
    schema = schema_of(a="float32", v="int32[2]", s="string", n="int64")
    codec = RowCodec(schema)
    rows = codec.encode(
        {
            "a": np.array([1, 2, 3], "f4"),
            "v": np.array([[1, 2], [3, 4], [5, 6]], "i4"),
            "s": texts("x", "y", "z"),
            "n": np.array([7, 8, 9]),
        },
        {},
        np.array([5, 6, 7]),
        1,
    )
    before = list(rows)
    table = codec.table(rows)
    where = np.array([True, False, True])
    assert table.column("a").tolist() == [1, 2, 3]  # seen before, so that an old view would show
    table.replace("a", where, 0.5)
    table.replace("v", where, [-1, -2])
    table.replace("s", where, "é")
    table.replace("s", np.array([False, True, False]), "")
    table.replace("n", np.array([False, True, False]), -8)
    assert table.column("a").tolist() == [0.5, 2, 0.5]
    assert table.column("v").tolist() == [[-1, -2], [3, 4], [-1, -2]]
    assert table.column("s").tolist() == ["é".encode(), b"", "é".encode()]
    assert table.column("n").tolist() == [7, -8, 9]
    assert table.event_us.tolist() == [5, 6, 7]
    assert rows == before
    one = codec.table(rows[:1])  # the row's own bytes, not a copy of them
    one.replace("n", np.array([True]), 0)
    assert rows[0] == before[0]


# -- defaults and older schemas -------------------------------------------------------------------


def test_the_default_row() -> None:
    schema = schema_of(
        a="float32",
        b="float64",
        n="int64",
        v="int32[2]",
        w="float32[2]",
        s="string",
        t="string",
        z="bool",
    )
    codec = RowCodec(schema, defaults={"b": 2.5, "v": [4, 5], "s": "clear", "z": True})
    row = codec.default_row
    assert is_sound(row)
    assert codec.reads(row)
    table = codec.table([row])
    assert (table.event_us.tolist(), table.write_us.tolist(), table.any_null) == ([0], [0], False)
    assert np.isnan(table.column("a")).all()
    assert np.isnan(table.column("w")).all()
    found = {name: table.column(name)[0] for name in "bnstz"}
    assert found == {"b": 2.5, "n": 0, "s": b"clear", "t": b"", "z": 1}
    assert table.column("v").tolist() == [[4, 5]]


def test_default_columns() -> None:
    assert default_column(parse_type("int16"), None, 2).tolist() == [0, 0]
    assert default_column(parse_type("float32[2]"), [1, 2], 2).tolist() == [[1, 2], [1, 2]]
    assert default_column(parse_type("float32[2]"), 3, 1).tolist() == [[3, 3]]
    assert default_column(parse_type("string"), "é", 2).tolist() == ["é".encode()] * 2
    assert default_column(parse_type("string"), None, 0).tolist() == []


def test_rows_of_older_schemas_become_todays() -> None:
    today = schema_of(a="float32", s="string", new="int32", more="float64", none="int16", b="int64")
    first = schema_of(b="int64", gone="string", a="float32")  # another order, and one that is gone
    second = schema_of(a="float32", s="string", b="int64")
    codec = RowCodec(today, [first, second], {"s": "clear", "new": 9})
    rows = [
        encode(first, {"a": 1, "b": 2, "gone": "x"}, event_us=-5),
        encode(today, {"a": 3, "s": "fog", "new": 4, "more": 5, "none": 6, "b": 7}),
        encode(second, {"a": 8, "s": "sun", "b": 9}, ("s", "b")),
        encode(first, {"a": 10, "b": 11, "gone": "y"}, ("a", "gone")),
    ]
    assert all(codec.reads(row) for row in rows)
    assert not codec.reads(encode(schema_of(a="float32"), {"a": 1}))
    renewed = codec.renew(rows)
    assert renewed[1] is rows[1]
    assert all(is_sound(row) and row[:8] == today.head for row in renewed)
    table = codec.table(renewed)
    assert table.event_us.tolist() == [-5, EVENT_US, EVENT_US, EVENT_US]
    assert table.write_us.tolist() == [WRITE_US] * 4
    np.testing.assert_array_equal(table.column("a"), np.array([1, 3, 8, np.nan], "f4"))
    assert table.column("s").tolist() == [b"clear", b"fog", b"", b"clear"]
    assert table.column("new").tolist() == [9, 4, 9, 9]
    np.testing.assert_array_equal(table.column("more"), [np.nan, 5, np.nan, np.nan])
    assert table.column("b").tolist() == [2, 7, 0, 11]
    nulls = {name: table.nulls(name).tolist() for name in today.slots}
    assert nulls == {
        "a": [False, False, False, True],
        "s": [False, False, True, False],
        "new": [False] * 4,
        "more": [False] * 4,
        "none": [True, False, True, True],  # there is nothing that could stand for it
        "b": [False, False, True, False],
    }


def test_a_column_whose_type_changed_is_not_read_as_the_other() -> None:
    codec = RowCodec(schema_of(a="float64"), [schema_of(a="float32")], {"a": -1.0})
    (row,) = codec.renew([encode(schema_of(a="float32"), {"a": 5})])
    assert codec.table([row]).column("a").tolist() == [-1.0]


@given(batches(), st.randoms(use_true_random=False))
def test_reordering_columns_changes_no_value(
    batch: tuple[RowSchema, dict[str, Any], dict[str, Any], np.ndarray, np.ndarray], rng: Any
) -> None:
    old, columns, nulls, event_us, write_us = batch
    order = list(old.columns)
    rng.shuffle(order)
    codec = RowCodec(RowSchema(order), [old])
    rows = RowCodec(old).encode(columns, nulls, event_us, write_us)
    before, after = RowTable(old, rows), codec.table(codec.renew(rows))
    np.testing.assert_array_equal(after.event_us, before.event_us)
    for name in old.slots:
        np.testing.assert_array_equal(after.column(name), before.column(name))
        np.testing.assert_array_equal(after.nulls(name), before.nulls(name))
