"""Where columns lie in a row: positions and ids that rows in stores rely on."""

from __future__ import annotations

import hashlib
import random

import pytest

from featurecache.columns import (
    Bool,
    Float32,
    Float64,
    Int8,
    Int16,
    Int64,
    String,
    Vector,
    parse_type,
)
from featurecache.errors import DefinitionError
from featurecache.rows.schema import MAX_COLUMNS, RowSchema, head_of, padded, schema_id


def test_golden_schema_id_and_head() -> None:
    columns = [("temp", Float32), ("sky", String)]
    # SHA-256 of b"temp:float32\nsky:string" begins with e1 a4 7b d3.
    assert schema_id(columns) == 0xD37BA4E1
    assert RowSchema(columns).head.hex(" ") == "01 07 18 00 e1 a4 7b d3"
    assert head_of(RowSchema(columns).head) == (1, 7, 24, 0xD37BA4E1)
    assert RowSchema(columns[:1]).head[1] == 5  # no variable part
    assert repr(RowSchema(columns)) == "RowSchema(d37ba4e1, 2 columns, 48 bytes)"


def test_the_id_follows_names_types_and_order_and_nothing_else() -> None:
    columns = [("a", Float32), ("b", Float32)]
    ids = {
        schema_id(one)
        for one in (
            columns,
            columns[::-1],
            columns[:1],
            [("a", Float32), ("b", Float64)],
            [("a", Float32), ("c", Float32)],
            [("a", Float32), ("b", Vector(Float32, 1))],
        )
    }
    assert len(ids) == 6
    digest = hashlib.sha256(b"a:float32\nb:float32").digest()
    assert schema_id(columns) == int.from_bytes(digest[:4], "little")
    assert RowSchema(columns) == RowSchema(list(columns))
    assert hash(RowSchema(columns)) == hash(RowSchema(list(columns)))
    assert RowSchema(columns) != RowSchema(columns[::-1])


def test_wide_columns_first_each_where_its_width_divides() -> None:
    schema = RowSchema(
        [
            ("flag", Bool),
            ("small", Int8),
            ("half", Int16),
            ("v", Vector(Float32, 3)),
            ("n", Int64),
            ("name", String),
            ("x", Float64),
            ("last", String),
        ]
    )
    offsets = {name: slot.offset for name, slot in schema.slots.items()}
    assert offsets == {
        "n": 32,
        "x": 40,
        "v": 48,
        "half": 60,
        "flag": 62,
        "small": 63,
        "name": 0,
        "last": 1,
    }
    assert schema.fixed_bytes == 64 + 3 * 4
    assert schema.row_bytes == 80
    assert not schema.is_fixed
    assert [slot.bit for slot in schema.slots.values()] == list(range(8))


@pytest.mark.parametrize(
    ("columns", "bitmap_bytes"), [(1, 8), (8, 8), (64, 8), (65, 16), (129, 24)]
)
def test_the_bitmap_grows_by_eight_bytes(columns: int, bitmap_bytes: int) -> None:
    schema = RowSchema([(f"c{i}", Int8) for i in range(columns)])
    assert schema.bitmap_bytes == bitmap_bytes
    assert schema.slots["c0"].offset == 24 + bitmap_bytes


def test_no_two_columns_share_a_byte() -> None:
    rng = random.Random(5)
    texts = ["float32", "float64", "int8", "int16", "int32", "int64", "bool", "timestamp"]
    texts += ["string", "float32[3]", "float64[2]", "int32[5]", "int64[1]"]
    for _ in range(200):
        schema = RowSchema(
            [(f"c{i}", parse_type(rng.choice(texts))) for i in range(rng.randint(1, 90))]
        )
        taken: set[int] = set(range(24 + schema.bitmap_bytes))
        for slot in schema.slots.values():
            if slot.type.is_string:
                continue
            assert slot.offset % slot.type.width == 0
            own = set(range(slot.offset, slot.offset + slot.type.width * slot.type.elements))
            assert not own & taken
            taken |= own
        offsets = 4 * (len(schema.strings) + 1) if schema.strings else 0
        assert max(taken) < schema.fixed_bytes - offsets
        assert schema.fixed_bytes + 4 <= schema.row_bytes < schema.fixed_bytes + 12
        assert schema.row_bytes % 8 == 0


def test_padding_leaves_room_for_the_checksum() -> None:
    assert [padded(length) for length in (33, 36, 37, 44, 45)] == [40, 40, 48, 48, 56]


def test_what_no_row_can_be() -> None:
    with pytest.raises(DefinitionError, match="0 columns: a view has 1 to 1024"):
        RowSchema([])
    with pytest.raises(DefinitionError, match="1025 columns: a view has 1 to 1024"):
        RowSchema([(f"c{i}", Int8) for i in range(MAX_COLUMNS + 1)])
    with pytest.raises(DefinitionError, match="a column name stands twice"):
        RowSchema([("a", Int8), ("a", Float32)])
    with pytest.raises(
        DefinitionError, match="a row of 65568 bytes: at most 60000; split the view"
    ):
        RowSchema([(f"v{i}", Vector(Float64, 4096)) for i in range(2)])
