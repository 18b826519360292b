"""Rows of any schema for the tests of packed rows, made from plain values or drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from featurecache.columns import ColumnType, parse_type
from featurecache.rows.codec import (
    RowCodec,
)
from featurecache.rows.schema import RowSchema

EVENT_US = 1_600_000_000_000_000
WRITE_US = EVENT_US + 1
# Both of them as they lie in a row.
TIMES = "00 00 a4 07 31 af 05 00  01 00 a4 07 31 af 05 00"


def schema_of(**columns: str) -> RowSchema:
    return RowSchema([(name, parse_type(text)) for name, text in columns.items()])


def texts(*values: object) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def encode(
    schema: RowSchema,
    columns: dict[str, Any],
    nulls: tuple[str, ...] = (),
    event_us: int = EVENT_US,
) -> bytes:
    """One row."""
    arrays = {}
    for name, slot in schema.slots.items():
        given_ = columns[name]
        arrays[name] = texts(given_) if slot.type.is_string else np.array([given_], slot.type.dtype)
    masks = {name: np.array([True]) for name in nulls}
    (row,) = RowCodec(schema).encode(arrays, masks, np.array([event_us]), WRITE_US)
    return row


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
        ).map(lambda found: texts(*found))
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
