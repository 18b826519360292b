"""Where values go in tensors, which types may become which, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from featurecache.columns import parse_type
from featurecache.errors import DefinitionError
from featurecache.joining.assembly import DTYPES, ModelInput, PlacedFeature, TensorPlan
from featurecache.manifests.manifest import FeatureRef
from featurecache.rows.codec import RowCodec, RowTable
from featurecache.rows.schema import RowSchema

INTEGERS = ["int8", "int16", "int32", "int64", "timestamp"]
KINDS = ["float32", "float64", *INTEGERS, "bool", "string"]
FLOATS = {"FP16", "FP32", "FP64"}
SIGNED = ["INT8", "INT16", "INT32", "INT64"]
FITS = {
    "float32": FLOATS,
    "float64": FLOATS,
    "int8": FLOATS | set(SIGNED),
    "int16": FLOATS | set(SIGNED[1:]),
    "int32": FLOATS | set(SIGNED[2:]),
    "int64": FLOATS | {"INT64"},
    "timestamp": FLOATS | {"INT64"},
    "bool": set(DTYPES) - {"BYTES"},
    "string": {"BYTES"},
}


def _placed(schema: RowSchema, *names: str) -> list[PlacedFeature]:
    start, placed = 0, []
    for name in names:
        type_ = schema.slots[name].type
        ref = FeatureRef("view", "v", name)
        placed.append(PlacedFeature(ref, type_, 0, start, start + type_.elements))
        start += type_.elements
    return placed


def _schema(**columns: str) -> RowSchema:
    return RowSchema([(name, parse_type(text)) for name, text in columns.items()])


def _read(schema: RowSchema, **columns: list[object]) -> RowTable:
    rows = len(next(iter(columns.values())))
    arrays = {}
    for name, slot in schema.slots.items():
        arrays[name] = np.empty(slot.type.shape(rows), slot.type.dtype)
        arrays[name][:] = columns[name]
    packed = RowCodec(schema).encode(arrays, {}, np.zeros(rows, np.int64), 0)
    return RowTable(schema, packed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("datatype", DTYPES)
def test_which_types_become_which(kind: str, datatype: str) -> None:
    schema = _schema(a=kind)
    target = ModelInput("x", datatype, (-1, 1))
    placed = _placed(schema, "a")
    if datatype not in FITS[kind]:
        with pytest.raises(DefinitionError) as refused:
            TensorPlan(target, placed, [schema])
        assert str(refused.value) == (
            f"feature v.a is {kind}, and input 'x' of the model is {datatype}: "
            "make them fit with an on-demand feature"
        )
        return
    value: object = b"x" if kind == "string" else True if kind == "bool" else 100
    out = TensorPlan(target, placed, [schema]).build(1, [_read(schema, a=[value])], {})
    assert out.dtype == DTYPES[datatype]
    assert out.tolist() == [[value]]


def test_an_unknown_datatype() -> None:
    schema = _schema(a="float32")
    with pytest.raises(DefinitionError, match=r"features cannot fill BF16 \(input 'x'\)"):
        TensorPlan(ModelInput("x", "BF16", (-1, 1)), _placed(schema, "a"), [schema])


@pytest.mark.parametrize(
    ("shape", "names", "fits"),
    [
        ((-1, 3), "abc", True),
        ((-1, -1), "abc", True),
        ((8, 3), "abc", True),
        ((-1,), "a", True),
        ((-1, 1), "a", True),
        ((-1,), "ab", False),
        ((-1, 2), "abc", False),
        ((-1, 3, 1), "abc", False),
        ((), "a", False),
    ],
)
def test_shapes(shape: tuple[int, ...], names: str, fits: bool) -> None:
    schema = _schema(a="float32", b="float32", c="float32")
    target = ModelInput("x", "FP32", shape)
    if fits:
        TensorPlan(target, _placed(schema, *names), [schema])
        return
    sentence = (
        f"the features of input 'x' make {len(names)} values a row; the model takes the shape"
    )
    with pytest.raises(DefinitionError) as refused:
        TensorPlan(target, _placed(schema, *names), [schema])
    assert str(refused.value) == f"{sentence} {list(shape)}"


def test_columns_in_any_order_with_vectors_between() -> None:
    schema = _schema(a="float32", v="float32[2]", n="int16", b="float64", z="bool")
    read = _read(schema, a=[1, 2], v=[[3, 4], [5, 6]], n=[-7, 8], b=[0.5, 1.5], z=[1, 0])
    target = ModelInput("x", "FP32", (-1, 6))
    plan = TensorPlan(target, _placed(schema, "z", "v", "a", "b", "n"), [schema])
    out = plan.build(2, [read], {})
    assert out.tolist() == [[1, 3, 4, 1, 0.5, -7], [0, 5, 6, 2, 1.5, 8]]
    assert out.flags.c_contiguous
    assert out.flags.writeable
    out[:] = 0  # the model's own memory, not the rows'
    assert read.column("a").tolist() == [1, 2]


def test_flat_tensors() -> None:
    schema = _schema(a="float32", s="string")
    read = _read(schema, a=[1, 2], s=[b"x", b"y"])
    flat = TensorPlan(ModelInput("x", "FP32", (-1,)), _placed(schema, "a"), [schema])
    assert flat.build(2, [read], {}).tolist() == [1, 2]
    named = TensorPlan(ModelInput("x", "BYTES", (-1,)), _placed(schema, "s"), [schema])
    assert named.build(2, [read], {}).tolist() == [b"x", b"y"]


def test_named_values_beside_columns() -> None:
    schema = _schema(a="float32")
    float32 = parse_type("float32")
    placed = [
        PlacedFeature(FeatureRef("input", "i"), float32, -1, 0, 1),
        PlacedFeature(FeatureRef("view", "v", "a"), float32, 0, 1, 2),
        PlacedFeature(FeatureRef("on_demand", "o"), parse_type("float32[2]"), -1, 2, 4),
    ]
    named = {
        ("input", "i"): np.array([[1], [2]], "f4"),
        ("on_demand", "o"): np.array([[3, 4], [5, 6]], "f4"),
    }
    plan = TensorPlan(ModelInput("x", "FP32", (-1, 4)), placed, [schema])
    assert plan.build(2, [_read(schema, a=[8, 9])], named).tolist() == [[1, 8, 3, 4], [2, 9, 5, 6]]
    none = {("input", "i"): np.empty((0, 1), "f4"), ("on_demand", "o"): np.empty((0, 2), "f4")}
    assert plan.build(0, [RowTable(schema, [])], none).shape == (0, 4)


@pytest.mark.parametrize(
    ("kind", "value", "datatype"),
    [
        ("float64", 1e300, "FP32"),
        ("float64", -1e300, "FP16"),
        ("float32", 1e30, "FP16"),
        ("int32", 2**30, "FP16"),
        ("int64", -(2**62), "FP16"),
        ("timestamp", 2**50, "FP16"),
    ],
)
def test_what_is_too_large_becomes_infinite_without_a_warning(
    kind: str, value: float, datatype: str
) -> None:
    schema = _schema(a=kind)
    plan = TensorPlan(ModelInput("x", datatype, (-1, 1)), _placed(schema, "a"), [schema])
    # Warnings are errors in these tests.
    out = plan.build(2, [_read(schema, a=[value, 1])], {})
    assert out.tolist() == [[np.copysign(np.inf, value)], [1]]


@pytest.mark.parametrize("kind", ["int64", "float64", "int16", "int8", "bool"])
def test_ends_of_types_pass_without_a_warning(kind: str) -> None:
    schema = _schema(a=kind)
    type_ = parse_type(kind)
    if kind == "float64":
        ends: list[object] = [float(np.finfo("f4").max), np.nan, -np.inf]
    elif kind == "bool":
        ends = [0, 1]
    else:
        ends = [int(np.iinfo(type_.dtype).min), int(np.iinfo(type_.dtype).max)]
    datatype = "FP16" if kind in ("int16", "int8", "bool") else "FP32"
    plan = TensorPlan(ModelInput("x", datatype, (-1, 1)), _placed(schema, "a"), [schema])
    wanted = np.array(ends, type_.dtype).astype(DTYPES[datatype])
    np.testing.assert_array_equal(plan.build(len(ends), [_read(schema, a=ends)], {})[:, 0], wanted)
