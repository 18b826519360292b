"""Keys as one column are the keys that are made one by one, or there is no such column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.columns import parse_type
from featurecache.offline.arrow_columns import reader_of
from featurecache.rows.keys import ids_of
from featurecache.writing.key_column import PLAIN_ID_BYTES, KeyColumn, plain_ids
from featurecache.writing.write_script import pack_call, pack_words, words_of_rows

PREFIX, SUFFIX = b"hr:p:{e:", b"}:v"
plain_texts = st.text(PLAIN_ID_BYTES.decode(), min_size=1, max_size=300)


def read_ids(type_: str, *columns: pa.Array) -> Any:
    readers = [reader_of(parse_type(type_), one.type, "key") for one in columns]
    return plain_ids(columns, readers)


@given(st.lists(plain_texts, min_size=1, max_size=20), st.integers(0, 5))
def test_plain_texts_are_the_ids_that_are_made_one_by_one(texts: list[str], skipped: int) -> None:
    column = pa.array(texts)[skipped:]
    found = read_ids("string", column)
    if not len(column) or max(map(len, texts[skipped:])) > 256:
        assert found is None
    else:
        assert found.to_pylist() == ids_of([[one.encode() for one in texts[skipped:]]])


@given(st.lists(st.text(max_size=4), min_size=1, max_size=4))
def test_a_column_is_given_only_where_no_id_needs_escaping(texts: list[str]) -> None:
    found = read_ids("string", pa.array(texts, pa.large_string()))
    is_plain = all(one and set(one.encode()) <= set(PLAIN_ID_BYTES) for one in texts)
    assert (found is not None) == is_plain
    if is_plain:
        assert found.to_pylist() == ids_of([[one.encode() for one in texts]])


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None]),
        pa.array(["a", ""]),
        pa.array(["a", "x" * 257]),
        pa.array([b"a", b"\xff"]),
        pa.array(["a", "b|c"]),
        pa.array([], pa.string()),
        pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", None])),
    ],
)
def test_what_is_missing_bad_or_odd_is_left_to_who_looks_at_each_key(column: pa.Array) -> None:
    assert read_ids("string", column) is None


@pytest.mark.parametrize(
    "arrow", [pa.int16(), pa.int64(), pa.uint64(), pa.dictionary(pa.int8(), pa.int64())]
)
def test_integers_are_plain_unless_they_do_not_fit(arrow: pa.DataType) -> None:
    values = pa.array([1, 20, 3]).cast(arrow) if not pa.types.is_dictionary(arrow) else (
        pa.array([1, 20, 3]).dictionary_encode()
    )  # fmt: skip
    assert read_ids("int64", values).to_pylist() == [b"1", b"20", b"3"]
    assert read_ids("int32", pa.array([1, 2**31])) is None
    assert read_ids("int64", pa.array([2**63], pa.uint64())) is None


@given(st.lists(st.tuples(plain_texts, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=9))
def test_words_are_those_of_a_call(pairs: list[tuple[str, int]]) -> None:
    texts, numbers = [one[:200] for one, _ in pairs], [one for _, one in pairs]
    columns = [pa.array(texts).dictionary_encode(), pa.array(numbers, pa.int64())]
    readers = [
        reader_of(parse_type(type_), one.type, "key")
        for type_, one in zip(("string", "int64"), columns, strict=True)
    ]
    keys = KeyColumn(PREFIX, SUFFIX, plain_ids(columns, readers))
    listed = [PREFIX + one + SUFFIX for one in ids_of([[t.encode() for t in texts], numbers])]
    assert keys.listed() == listed
    assert keys.all_differ() == (len(set(listed)) == len(listed))
    content, places = keys.words()
    rows = pa.array([bytes([i]) * 48 for i in range(len(keys))], pa.binary(48))
    block = memoryview(rows.buffers()[1]).cast("B", (len(keys), 48))
    row_words = words_of_rows(np.asarray(block))
    for start in range(len(keys)):
        begin, end = places[start], places[-1]
        packed = pack_words(
            len(keys) - start, content[begin:end], row_words[start:], 48, latest_us=7, keep_ms=None
        )
        assert packed == pack_call(
            listed[start:], rows.to_pylist()[start:], latest_us=7, keep_ms=None
        )
