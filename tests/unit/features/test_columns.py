"""Types of values: how they are written, what they are in NumPy and on the wire, and which defaults fit them."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from featurecache.columns import (
    MAX_STRING_BYTES,
    MAX_VECTOR_LENGTH,
    Bool,
    ColumnType,
    Default,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    String,
    Timestamp,
    Vector,
    checked_default,
    parse_type,
)
from featurecache.errors import DefinitionError

SINGLE = [Float32, Float64, Int8, Int16, Int32, Int64, Bool, Timestamp, String]


@pytest.mark.parametrize(
    ("type_", "dtype", "datatype", "width"),
    [
        (Float32, "<f4", "FP32", 4),
        (Float64, "<f8", "FP64", 8),
        (Int8, "i1", "INT8", 1),
        (Int16, "<i2", "INT16", 2),
        (Int32, "<i4", "INT32", 4),
        (Int64, "<i8", "INT64", 8),
        (Bool, "u1", "BOOL", 1),
        (Timestamp, "<i8", "INT64", 8),
        (String, "O", "BYTES", 0),
        (Vector(Float32, 24), "<f4", "FP32", 4),
        (Vector(Int64, 1), "<i8", "INT64", 8),
    ],
)
def test_what_each_type_is_in_a_row_and_on_the_wire(
    type_: ColumnType, dtype: str, datatype: str, width: int
) -> None:
    assert (type_.dtype, type_.datatype, type_.width) == (np.dtype(dtype), datatype, width)


@pytest.mark.parametrize("type_", [*SINGLE, Vector(Float32, 24), Vector(Int32, 1)])
def test_a_type_reads_what_it_writes(type_: ColumnType) -> None:
    assert parse_type(str(type_)) == type_


def test_shapes() -> None:
    assert Float32.shape(3) == (3,)
    assert Vector(Float32, 2).shape(3) == (3, 2)
    assert Vector(Float32, 1).shape(3) == (3, 1)  # a vector all the same
    assert (Float32.elements, Vector(Float32, 2).elements) == (1, 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no type; write for example float32 or float32[24]"),
        ("float32 ", "is no type"),
        ("float32\n", "is no type"),
        ("float32[]", "is no type"),
        ("float32[0]", "is no type"),
        ("float32[-1]", "is no type"),
        ("float32[01]", "is no type"),
        pytest.param("float32[" + "9" * 5000 + "]", "is no type", id="digits"),
        ("float", "unknown type 'float'; there are float32, float64, int8"),
        ("string[3]", "no vectors of string: only of float32, float64, int32, int64"),
        ("bool[3]", "no vectors of bool"),
        ("float32[4097]", "a vector of 4097 elements: 1 to 4096 are possible"),
    ],
)
def test_what_is_no_type(text: str, sentence: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        parse_type(text)
    assert sentence in str(refused.value)


def test_vectors_are_of_plain_types_and_have_elements() -> None:
    assert Vector(Float64, MAX_VECTOR_LENGTH).length == MAX_VECTOR_LENGTH
    with pytest.raises(DefinitionError, match=r"Vector\(float32, 0\): one plain type"):
        Vector(Float32, 0)
    with pytest.raises(DefinitionError, match=r"Vector\(float32\[2\], 3\): one plain type"):
        Vector(Vector(Float32, 2), 3)
    with pytest.raises(DefinitionError, match="a vector of -1 elements"):
        ColumnType("float32", -1)


@pytest.mark.parametrize(
    ("type_", "default"),
    [
        (Float32, None),
        (Float32, 1),
        (Float32, -1.5),
        (Float32, 3e38),
        (Float64, 1e300),
        (Float64, 2**62),
        (Int8, -128),
        (Int8, 127),
        (Int64, -(2**63)),
        (Timestamp, 0),
        (Bool, False),
        (String, ""),
        pytest.param(String, "é" * (MAX_STRING_BYTES // 2), id="long"),
        (Vector(Float32, 2), 0.0),
        (Vector(Float32, 2), [1, 2.5]),
        (Vector(Int32, 1), [7]),
    ],
)
def test_defaults_that_fit_survive_json(type_: ColumnType, default: Default) -> None:
    checked = checked_default(type_, default)
    assert checked == default
    back = msgspec.json.decode(msgspec.json.encode(checked), type=Default)  # type: ignore[arg-type]
    assert back == default
    assert type(back) is type(default)


@pytest.mark.parametrize("type_", [Float32, Float64, Vector(Float32, 2)])
def test_nan_is_what_floats_have_without_a_default(type_: ColumnType) -> None:
    assert checked_default(type_, math.nan) is None


def test_numpy_floats_become_plain_ones() -> None:
    assert type(checked_default(Float64, np.float64(0.5))) is float
    assert [type(one) for one in checked_default(Vector(Float64, 1), [np.float64(0.5)])] == [float]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("type_", "default", "sentence"),
    [
        (Float32, True, "default True is no float32"),
        (Float32, "1", "default '1' is no float32"),
        (Float32, 1e39, "default 1e+39 is too large for a float32"),
        (Float64, 2**64, "is no float64"),
        pytest.param(Float64, 10**5000, "of thousands of digits is no float64", id="digits"),
        (Float32, math.inf, "default inf cannot stand in a manifest; take a finite number"),
        (Int32, 1.0, "default 1.0 is no int32"),
        (Int32, True, "default True is no int32"),
        (Int8, 128, "default 128 is no int8"),
        (Int8, -129, "default -129 is no int8"),
        (Int64, 2**63, "is no int64"),
        (Bool, 1, "default 1 is no bool"),
        (String, 5, "default 5 is no string"),
        (String, b"x", "default b'x' is no string"),
        (String, "\ud800", "is no UTF-8"),
        pytest.param(
            String, "x" * (MAX_STRING_BYTES + 1), "default of 65537 bytes: at most 65536", id="long"
        ),
        (Float32, [1.0], "default of float32 is a list"),
        (Vector(Float32, 2), [1.0], "default has 1 elements, float32[2] has 2"),
        (Vector(Float32, 2), [], "default has 0 elements"),
        (Vector(Float32, 2), [1.0, "x"], "default 'x' is no float32"),
        (Vector(Float32, 2), [1.0, math.nan], "default nan cannot stand in a manifest"),
        (Vector(Int32, 2), [1, 2.0], "default 2.0 is no int32"),
        (Vector(Int32, 2), (1, 2), "default (1, 2) is no int32"),
    ],
)
def test_defaults_that_do_not_fit(type_: ColumnType, default: Default, sentence: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        checked_default(type_, default)
    assert sentence in str(refused.value)
