"""Packed rows: golden bytes, round trips, damage that must be seen, and rows of schemas before today's."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given

from featurecache.columns import MAX_STRING_BYTES
from featurecache.errors import RowError
from featurecache.rows.codec import (
    RESIDUE,
    RowCodec,
    explain,
    is_sound,
)
from featurecache.rows.schema import RowSchema
from tests.unit.features.packed_rows import (
    TIMES,
    batches,
    encode,
    schema_of,
    texts,
)

# -- golden bytes ---------------------------------------------------------------------------------


def test_golden_fixed_row() -> None:
    schema = schema_of(a="float32", b="int64", c="bool", d="int16")
    row = encode(schema, {"a": 1.5, "b": -2, "c": True, "d": 300})
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
    schema = schema_of(a="float32", b="int64", c="bool", d="int16")
    row = encode(schema, {"a": 1.5, "b": -2, "c": True, "d": 300}, ("a", "c"), event_us=-1)
    assert row == bytes.fromhex(
        "01 05 18 00 2f ce 59 a5  ff ff ff ff ff ff ff ff  01 00 a4 07 31 af 05 00"
        "05 00 00 00 00 00 00 00"  # the first and the third
        "fe ff ff ff ff ff ff ff"
        "00 00 c0 7f  2c 01  00 00"  # NaN and False stand for them
        "00 00 00 00  0c c3 9f 04"
    )


def test_golden_row_with_strings() -> None:
    schema = schema_of(s="string", n="int8", u="string")
    row = encode(schema, {"s": "é", "n": 7, "u": b"abc"})
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
    schema = schema_of(s="string", n="int8", u="string")
    row = encode(schema, {"s": "never written", "n": 7, "u": "abc"}, ("s",))
    assert row == bytes.fromhex(
        "01 07 18 00 26 9c af f6" + TIMES + "01 00 00 00 00 00 00 00"
        "07 00 00 00  00 00 00 00  00 00 00 00  03 00 00 00"
        "61 62 63 00  98 44 dd 56"
    )


def test_golden_row_with_vectors() -> None:
    schema = schema_of(v="float32[3]", w="int32[2]", t="timestamp", x="float64")
    row = encode(schema, {"v": [1, 2, 3], "w": [-1, 7], "t": 5, "x": -0.5})
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
    schema = schema_of(**dict.fromkeys(names, "bool"))
    row = encode(schema, dict.fromkeys(names, True), ("c0", "c8"))
    assert row == bytes.fromhex(
        "01 05 18 00 9f 91 c7 db" + TIMES + "01 01 00 00 00 00 00 00"
        "00 01 01 01 01 01 01 01  00 00 00 00 f9 b1 54 4f"
    )


def test_golden_row_whose_bitmap_needs_a_ninth_byte() -> None:
    schema = schema_of(**{f"c{i}": "int8" for i in range(65)})
    row = encode(schema, {f"c{i}": i for i in range(65)}, ("c63", "c64"))
    assert row == bytes.fromhex(
        "01 05 18 00 01 3d 37 6b"
        + TIMES
        + "00 00 00 00 00 00 00 80  01 00 00 00 00 00 00 00"
        + bytes(range(63)).hex()
        + "00 00  00 00 00 c7 15 8b 10"  # the two nulls, padding, CRC32
    )


# -- round trips ----------------------------------------------------------------------------------


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
            wanted = texts(*[one.encode() if isinstance(one, str) else one for one in wanted])
        wanted[empty] = b"" if slot.type.is_string else np.nan if slot.type.is_float else 0
        found = table.column(name)
        assert found.shape == slot.type.shape(count)
        assert found.dtype == slot.type.dtype
        np.testing.assert_array_equal(found, wanted)
        if slot.type.is_float:  # -0.0 is not 0.0
            np.testing.assert_array_equal(np.signbit(found[~empty]), np.signbit(wanted[~empty]))


def test_one_write_time_for_all() -> None:
    codec = RowCodec(schema_of(a="int8"))
    rows = codec.encode({"a": np.array([1, 2], "i1")}, {}, np.array([3, 4]), 9)
    assert codec.table(rows).write_us.tolist() == [9, 9]


def test_strings_that_are_none_or_too_long() -> None:
    codec = RowCodec(schema_of(s="string"))
    assert is_sound(codec.encode({"s": texts("x" * MAX_STRING_BYTES)}, {}, np.zeros(1, "i8"), 0)[0])
    with pytest.raises(RowError, match="a string of 65537 bytes: at most 65536 are possible"):
        codec.encode({"s": texts("x" * (MAX_STRING_BYTES + 1))}, {}, np.zeros(1, "i8"), 0)
    with pytest.raises(RowError, match="5 is no string"):
        codec.encode({"s": texts(5)}, {}, np.zeros(1, "i8"), 0)
