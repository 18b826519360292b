"""Packed rows: golden bytes, round trips, damage that must be seen, and rows of schemas before today's."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.codec import (
    RESIDUE,
    SHORTEST_ROW_BYTES,
    RowCodec,
    RowTable,
    default_column,
    explain,
    is_sound,
)
from featurecache.columns import MAX_STRING_BYTES, ColumnType, parse_type
from featurecache.errors import RowError
from featurecache.schema import RowSchema

EVENT_US = 1_600_000_000_000_000
WRITE_US = EVENT_US + 1
# Both of them as they lie in a row.
TIMES = "00 00 a4 07 31 af 05 00  01 00 a4 07 31 af 05 00"


def _schema(**columns: str) -> RowSchema:
    return RowSchema([(name, parse_type(text)) for name, text in columns.items()])


def _texts(*values: object) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _encode(
    schema: RowSchema,
    columns: dict[str, Any],
    nulls: tuple[str, ...] = (),
    event_us: int = EVENT_US,
) -> bytes:
    """One row."""
    arrays = {}
    for name, slot in schema.slots.items():
        given_ = columns[name]
        arrays[name] = (
            _texts(given_) if slot.type.is_string else np.array([given_], slot.type.dtype)
        )
    masks = {name: np.array([True]) for name in nulls}
    (row,) = RowCodec(schema).encode(arrays, masks, np.array([event_us]), WRITE_US)
    return row


# -- golden bytes ---------------------------------------------------------------------------------


def test_golden_fixed_row() -> None:
    schema = _schema(a="float32", b="int64", c="bool", d="int16")
    row = _encode(schema, {"a": 1.5, "b": -2, "c": True, "d": 300})
    assert (
        row
        == bytes.fromhex(
            "01 05 18 00 2f ce 59 a5" + TIMES + "00 00 00 00 00 00 00 00"  # no nulls
            "fe ff ff ff ff ff ff ff"  # b
            "00 00 c0 3f  2c 01  01 00"  # a, d, c, padding
            "00 00 00 00  fc eb 3c 6a"  # padding, CRC32
        )
    )


def test_golden_row_with_nulls_before_1970() -> None:
    schema = _schema(a="float32", b="int64", c="bool", d="int16")
    row = _encode(schema, {"a": 1.5, "b": -2, "c": True, "d": 300}, ("a", "c"), event_us=-1)
    assert row == bytes.fromhex(
        "01 05 18 00 2f ce 59 a5  ff ff ff ff ff ff ff ff  01 00 a4 07 31 af 05 00"
        "05 00 00 00 00 00 00 00"  # the first and the third
        "fe ff ff ff ff ff ff ff"
        "00 00 c0 7f  2c 01  00 00"  # NaN and False stand for them
        "00 00 00 00  0c c3 9f 04"
    )


def test_golden_row_with_strings() -> None:
    schema = _schema(s="string", n="int8", u="string")
    row = _encode(schema, {"s": "é", "n": 7, "u": b"abc"})
    assert (
        row
        == bytes.fromhex(
            "01 07 18 00 26 9c af f6" + TIMES + "00 00 00 00 00 00 00 00"
            "07 00 00 00  00 00 00 00"  # n, padding to 4; the first string begins at 0
            "02 00 00 00  05 00 00 00"  # the second at 2; the end
            "c3 a9 61 62 63 00 00 00"
            "00 00 00 00  d4 80 9e 02"
        )
    )


def test_golden_row_with_a_null_string() -> None:
    schema = _schema(s="string", n="int8", u="string")
    row = _encode(schema, {"s": "never written", "n": 7, "u": "abc"}, ("s",))
    assert row == bytes.fromhex(
        "01 07 18 00 26 9c af f6" + TIMES + "01 00 00 00 00 00 00 00"
        "07 00 00 00  00 00 00 00  00 00 00 00  03 00 00 00"
        "61 62 63 00  98 44 dd 56"
    )


def test_golden_row_with_vectors() -> None:
    schema = _schema(v="float32[3]", w="int32[2]", t="timestamp", x="float64")
    row = _encode(schema, {"v": [1, 2, 3], "w": [-1, 7], "t": 5, "x": -0.5})
    assert (
        row
        == bytes.fromhex(
            "01 05 18 00 6c 1e 55 be" + TIMES + "00 00 00 00 00 00 00 00"
            "05 00 00 00 00 00 00 00  00 00 00 00 00 00 e0 bf"  # t, x
            "00 00 80 3f 00 00 00 40 00 00 40 40  ff ff ff ff 07 00 00 00"  # v, w
            "bd a1 86 fc"
        )
    )


def test_golden_row_whose_bitmap_needs_a_second_byte() -> None:
    names = [f"c{i}" for i in range(9)]
    schema = _schema(**dict.fromkeys(names, "bool"))
    row = _encode(schema, dict.fromkeys(names, True), ("c0", "c8"))
    assert row == bytes.fromhex(
        "01 05 18 00 9f 91 c7 db" + TIMES + "01 01 00 00 00 00 00 00"
        "00 01 01 01 01 01 01 01  00 00 00 00 f9 b1 54 4f"
    )


def test_golden_row_whose_bitmap_needs_a_ninth_byte() -> None:
    schema = _schema(**{f"c{i}": "int8" for i in range(65)})
    row = _encode(schema, {f"c{i}": i for i in range(65)}, ("c63", "c64"))
    assert row == bytes.fromhex(
        "01 05 18 00 01 3d 37 6b"
        + TIMES
        + "00 00 00 00 00 00 00 80  01 00 00 00 00 00 00 00"
        + bytes(range(63)).hex()
        + "00 00  00 00 00 c7 15 8b 10"  # the two nulls, padding, CRC32
    )


# -- round trips ----------------------------------------------------------------------------------

KINDS = ["float32", "float64", "int8", "int16", "int32", "int64", "bool", "timestamp", "string"]
KINDS += ["float32[3]", "float64[1]", "int32[2]", "int64[4]"]
TYPES = st.sampled_from(KINDS).map(parse_type)
TIMES_US = st.integers(-(2**63), 2**63 - 1)


def _values(type_: ColumnType, rows: int) -> st.SearchStrategy[np.ndarray]:
    if type_.is_string:
        return st.lists(
            st.binary(max_size=20) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
            min_size=rows,
            max_size=rows,
        ).map(lambda found: _texts(*found))
    if type_.is_float:
        one: st.SearchStrategy[Any] = st.floats(width=8 * type_.width)  # type: ignore[arg-type]
    elif type_.kind == "bool":
        one = st.booleans()
    else:
        info = np.iinfo(type_.dtype)
        one = st.integers(int(info.min), int(info.max))
    count = rows * type_.elements
    return st.lists(one, min_size=count, max_size=count).map(
        lambda found: np.array(found, type_.dtype).reshape(type_.shape(rows))
    )


@st.composite
def batches(
    draw: st.DrawFn,
) -> tuple[RowSchema, dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """A schema, and columns, null masks, event and write times of some rows."""
    types = draw(st.lists(TYPES, min_size=1, max_size=12))
    if draw(st.booleans()):  # a bitmap of more than eight bytes
        types += [parse_type("int8")] * 64
    schema = RowSchema([(f"c{i}", type_) for i, type_ in enumerate(types)])
    rows = draw(st.integers(0, 4))
    masks = st.lists(st.booleans(), min_size=rows, max_size=rows).map(
        lambda bits: np.array(bits, bool)
    )
    columns = {
        name: draw(_values(slot.type, rows)) if i < 12 else np.arange(rows, dtype=np.int8)
        for i, (name, slot) in enumerate(schema.slots.items())
    }
    with_nulls = draw(st.sets(st.sampled_from(list(schema.slots))))
    nulls = {name: draw(masks) for name in sorted(with_nulls)}
    times = st.lists(TIMES_US, min_size=rows, max_size=rows).map(lambda t: np.array(t, np.int64))
    return schema, columns, nulls, draw(times), draw(times)


@given(batches())
def test_what_is_encoded_is_decoded(
    batch: tuple[RowSchema, dict[str, Any], dict[str, Any], np.ndarray, np.ndarray],
) -> None:
    schema, columns, nulls, event_us, write_us = batch
    count = len(event_us)
    rows = RowCodec(schema).encode(columns, nulls, event_us, write_us)
    assert len(rows) == count
    assert all(is_sound(row) and len(row) % 8 == 0 and explain(row) == "" for row in rows)
    assert {crc32(row) for row in rows} <= {RESIDUE}
    table = RowCodec(schema).table(rows)
    np.testing.assert_array_equal(table.event_us, event_us)
    np.testing.assert_array_equal(table.write_us, write_us)
    assert table.any_null == any(mask.any() for mask in nulls.values())
    for name, slot in schema.slots.items():
        empty = nulls.get(name, np.zeros(count, bool))
        np.testing.assert_array_equal(table.nulls(name), empty)
        wanted = columns[name].copy()
        if slot.type.is_string:
            wanted = _texts(*[one.encode() if isinstance(one, str) else one for one in wanted])
        wanted[empty] = b"" if slot.type.is_string else np.nan if slot.type.is_float else 0
        found = table.column(name)
        assert found.shape == slot.type.shape(count)
        assert found.dtype == slot.type.dtype
        np.testing.assert_array_equal(found, wanted)
        if slot.type.is_float:  # -0.0 is not 0.0
            np.testing.assert_array_equal(np.signbit(found[~empty]), np.signbit(wanted[~empty]))


def test_one_write_time_for_all() -> None:
    codec = RowCodec(_schema(a="int8"))
    rows = codec.encode({"a": np.array([1, 2], "i1")}, {}, np.array([3, 4]), 9)
    assert codec.table(rows).write_us.tolist() == [9, 9]


def test_strings_that_are_none_or_too_long() -> None:
    codec = RowCodec(_schema(s="string"))
    assert is_sound(
        codec.encode({"s": _texts("x" * MAX_STRING_BYTES)}, {}, np.zeros(1, "i8"), 0)[0]
    )
    with pytest.raises(RowError, match="a string of 65537 bytes: at most 65536 are possible"):
        codec.encode({"s": _texts("x" * (MAX_STRING_BYTES + 1))}, {}, np.zeros(1, "i8"), 0)
    with pytest.raises(RowError, match="5 is no string"):
        codec.encode({"s": _texts(5)}, {}, np.zeros(1, "i8"), 0)


# -- damage ---------------------------------------------------------------------------------------

ROWS = [
    _encode(_schema(a="float32", b="int64"), {"a": 1.5, "b": 7}),
    _encode(_schema(s="string", n="int8"), {"s": "clear sky over", "n": 7}),
    _encode(_schema(z="int8"), {"z": 0}, event_us=0),
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
    for schema in (_schema(a="float32", v="float32[3]"), _schema(a="float32", s="string")):
        table = RowTable(schema, [])
        assert not table.any_null
        assert table.event_us.shape == table.write_us.shape == (0,)
        assert table.nulls("a").shape == (0,)
        for name, slot in schema.slots.items():
            assert table.column(name).shape == slot.type.shape(0)


def test_neighbouring_columns_are_one_matrix() -> None:
    schema = _schema(a="float32", b="float32", c="float32")
    codec = RowCodec(schema)
    columns = {name: np.array([i, i + 10], "f4") for i, name in enumerate("abc")}
    table = codec.table(codec.encode(columns, {}, np.zeros(2, "i8"), 0))
    first = schema.slots["a"].offset // 4
    assert table.matrix("<f4")[:, first : first + 3].tolist() == [[0, 1, 2], [10, 11, 12]]


def test_replacing_leaves_rows_and_other_values_alone() -> None:
    schema = _schema(a="float32", v="int32[2]", s="string", n="int64")
    codec = RowCodec(schema)
    rows = codec.encode(
        {
            "a": np.array([1, 2, 3], "f4"),
            "v": np.array([[1, 2], [3, 4], [5, 6]], "i4"),
            "s": _texts("x", "y", "z"),
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
    schema = _schema(
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
    today = _schema(a="float32", s="string", new="int32", more="float64", none="int16", b="int64")
    first = _schema(b="int64", gone="string", a="float32")  # another order, and one that is gone
    second = _schema(a="float32", s="string", b="int64")
    codec = RowCodec(today, [first, second], {"s": "clear", "new": 9})
    rows = [
        _encode(first, {"a": 1, "b": 2, "gone": "x"}, event_us=-5),
        _encode(today, {"a": 3, "s": "fog", "new": 4, "more": 5, "none": 6, "b": 7}),
        _encode(second, {"a": 8, "s": "sun", "b": 9}, ("s", "b")),
        _encode(first, {"a": 10, "b": 11, "gone": "y"}, ("a", "gone")),
    ]
    assert all(codec.reads(row) for row in rows)
    assert not codec.reads(_encode(_schema(a="float32"), {"a": 1}))
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
    codec = RowCodec(_schema(a="float64"), [_schema(a="float32")], {"a": -1.0})
    (row,) = codec.renew([_encode(_schema(a="float32"), {"a": 5})])
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
