"""Keys, fields and values against what feast itself wrote (``recorded.json``; ``make feast-check`` asks it anew)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import hiredis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.columns import ColumnType, parse_type
from featurecache.errors import DefinitionError, RowError
from featurecache.feast.feast_layout import (
    FeastEntity,
    FeastLayout,
    FeastView,
    field_of,
    murmur3_32,
)
from featurecache.feast.feast_rows import UNREADABLE, rows_of
from featurecache.feast.feast_values import decode, event_time_us, to_varint, varint
from featurecache.manifests.manifest import EntitySpec
from featurecache.rows.codec import RowCodec, is_sound
from featurecache.rows.keys import escape
from tests.support.feast_store import comparing

SAID = comparing.recorded()
HASHES = {
    bytes.fromhex(key): {bytes.fromhex(field): bytes.fromhex(one) for field, one in fields.items()}
    for key, fields in SAID["hashes"].items()
}


def parsed(commands: Sequence[bytes]) -> list[list[bytes]]:
    reader = hiredis.Reader()
    reader.feed(b"".join(commands))
    return [reader.gets() for _ in commands]


def replies_to(commands: Sequence[bytes]) -> list[list[bytes | None]]:
    """What a server with the recorded hashes says."""
    said = []
    for word, name, *fields in parsed(commands):
        assert word == b"HMGET"
        said.append([HASHES.get(name, {}).get(field) for field in fields])
    return said


def read(layout: FeastLayout, keys: Sequence[bytes]) -> list[bytes | None]:
    rows: list[bytes | None] = [None] * len(keys)
    for reads in layout.plan(keys).reads:
        start = 0
        replies = replies_to(reads.commands())
        for place, view in enumerate(reads.views):
            for row, slots in zip(rows_of(view, replies, start), reads.slots, strict=True):
                rows[slots[place]] = row
            start += len(view.fields)
    return rows


# -- names ------------------------------------------------------------------------------------------


def test_the_hash_is_feasts() -> None:
    assert len(SAID["murmur"]) >= 10
    for name, expected in SAID["murmur"].items():
        assert struct.pack("<I", murmur3_32(name.encode())).hex() == expected, name
    assert field_of("rates", "rate0").hex() == SAID["murmur"]["rates:rate0"]


def test_keys_are_feasts() -> None:
    kinds = {"string_val": "string", "int32_val": "int32", "int64_val": "int64"}
    checked = 0
    for parts, expected in SAID["keys"]:
        if any(kind not in kinds for _, (kind, _) in parts):
            continue  # feast has more kinds of keys than we
        entity = EntitySpec("e", {name: kinds[kind] for name, (kind, _) in parts})
        texts = [str(value).encode() for _, (_, value) in parts]
        entity_id = b"|".join(escape(one) if one else one for one in texts)
        name = FeastEntity(entity, "shop").key_of(entity_id)
        assert name == bytes.fromhex(expected) + b"shop", parts
        checked += 1
    assert checked == 6


@pytest.mark.parametrize("entity_id", [b"", b"x", b"1.5", b"2147483648", b"1|2", b"%31%zz"])
def test_an_id_that_no_entity_can_have_names_nothing(entity_id: bytes) -> None:
    assert FeastEntity(EntitySpec("seat", {"seat_no": "int32"}), "p").key_of(entity_id) is None


# -- whole rows -------------------------------------------------------------------------------------


def test_all_rows_are_as_feast_reads_them() -> None:
    keys, answers = comparing.asked(SAID)
    rows = read(FeastLayout(comparing.manifest(), comparing.PROJECT), keys)
    assert comparing.assert_same(rows, answers) == 5 * 11 + 2 * 4 + 2 + 2 + 2
    assert rows.count(None) == 6  # those that were never written, which feast calls present


def test_one_command_serves_all_views_of_an_entity() -> None:
    keys = [
        comparing.key_of(view, {"origin": one})
        for one in ("JFK", "BOS", "EWR")
        for view in ("all_types", "rates")
    ]
    plan = FeastLayout(comparing.manifest(), comparing.PROJECT).plan(keys)
    (reads,) = plan.reads
    assert len(parsed(reads.commands())) == 3
    assert reads.slots == [[0, 1], [2, 3], [4, 5]]
    assert all(len(one) == 2 + reads.width for one in parsed(reads.commands()))


def test_entities_that_are_asked_for_other_views_stand_apart() -> None:
    keys = [
        comparing.key_of("rates", {"origin": "JFK"}),
        comparing.key_of("all_types", {"origin": "BOS"}),
        comparing.key_of("delays", {"flight_no": 7}),
        comparing.key_of("rates", {"origin": "EWR"}),
    ]
    plan = FeastLayout(comparing.manifest(), comparing.PROJECT).plan(keys)
    assert [one.slots for one in plan.reads] == [[[0], [3]], [[1]], [[2]]]


def test_keys_that_no_definition_knows_are_told_apart_from_impossible_ones() -> None:
    keys = [
        b"hr:ours:{airport:JFK}:gone",
        b"hr:ours:{nobody:JFK}:rates",
        b"hr:ours:{flight:x}:delays",
    ]
    plan = FeastLayout(comparing.manifest(), comparing.PROJECT).plan(keys)
    assert (plan.reads, plan.unknown, plan.impossible) == ([], [0, 1], [2])


def test_a_view_under_another_name_has_other_fields() -> None:
    layout = FeastLayout(comparing.manifest(), "p", {"rates": "rates_v2"})
    (reads,) = layout.plan([comparing.key_of("rates", {"origin": "JFK"})]).reads
    (command,) = parsed(reads.commands())
    assert command[2:] == [*(field_of("rates_v2", f"rate{i}") for i in range(4)), b"_ts:rates_v2"]
    with pytest.raises(DefinitionError, match="no feature view 'rats'"):
        FeastLayout(comparing.manifest(), "p", {"rats": "rates_v2"})


def test_another_type_spoils_its_own_row_only() -> None:
    wrong = {"rate0": "float32", "rate1": "int32", "rate2": "float32", "rate3": "float32"}
    keys = [comparing.key_of(view, {"origin": "JFK"}) for view in ("rates", "all_types")]
    layout = FeastLayout(comparing.manifest(rates=wrong), comparing.PROJECT)
    spoiled, sound = read(layout, keys)
    assert spoiled == UNREADABLE
    assert sound is not None
    assert is_sound(sound)


def test_a_lost_event_time_is_as_old_as_can_be_and_a_broken_one_spoils_the_row() -> None:
    view = FeastView(comparing.view_spec("v", "e", {"a": "float32"}))
    value = b"\x35" + struct.pack("<f", 2.5)
    lost, broken, present, empty = rows_of(
        view, [[value, None], [value, b"\x08"], [value, b"\x08\x01"], [None, b"\x08\x01"]], 0
    )
    assert lost is not None
    assert RowCodec(view.codec.schema).table([lost]).event_us.tolist() == [0]
    assert broken == UNREADABLE
    assert present is not None
    assert RowCodec(view.codec.schema).table([present]).event_us.tolist() == [1_000_000]
    assert empty is not None
    assert RowCodec(view.codec.schema).table([empty]).nulls("a").tolist() == [True]


def test_features_that_share_a_field_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurecache.feast.feast_layout.murmur3_32", len)
    with pytest.raises(DefinitionError, match="keeps 'ab' and 'cd' in the same field"):
        FeastView(comparing.view_spec("v", "e", {"ab": "float32", "cd": "float32"}))


# -- values -----------------------------------------------------------------------------------------


def value_of(kind: str, value: Any) -> bytes:
    """As feast writes it."""
    if kind == "float32":
        return b"\x35" + struct.pack("<f", value)
    if kind == "float64":
        return b"\x29" + struct.pack("<d", value)
    tags = {"int32": b"\x18", "int64": b"\x20", "bool": b"\x38", "timestamp": b"\x40"}
    return tags[kind] + to_varint(int(value) % (1 << 64))


RANGES = {
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "int32": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64": st.integers(-(1 << 63), (1 << 63) - 1),
    "bool": st.booleans(),
    "timestamp": st.integers(-(10**11), 10**11),
}


@pytest.mark.parametrize("kind", RANGES)
@given(data=st.data())
def test_numbers_and_nulls_in_any_order(kind: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | RANGES[kind], max_size=20))
    nothing = data.draw(st.sampled_from([None, b"", b"\x98\x01\x00"]))
    raw = [nothing if one is None else value_of(kind, one) for one in values]
    found = decode(ColumnType(kind), raw)
    assert found.nulls.tolist() == [one is None for one in values]
    assert not found.unreadable.any()
    factor = 1_000_000 if kind == "timestamp" else 1
    assert found.values.tolist() == [0 if one is None else one * factor for one in values]


@given(
    st.lists(st.none() | st.binary(max_size=24), max_size=12),
    st.sampled_from(
        [
            "float32",
            "float64",
            "int8",
            "int32",
            "int64",
            "bool",
            "timestamp",
            "string",
            "float32[2]",
            "int64[2]",
        ]
    ),
)
def test_no_bytes_whatsoever_raise(raw: list[bytes | None], type_: str) -> None:
    found = decode(parse_type(type_), raw)
    assert len(found.values) == len(found.nulls) == len(found.unreadable) == len(raw)
    assert not (found.nulls & found.unreadable).any()


@pytest.mark.parametrize(
    ("type_", "raw"),
    [
        ("float32", value_of("float64", 1.0)),
        ("float32", value_of("float32", 1.0)[:-1]),
        ("float32", value_of("float32", 1.0) * 2),
        ("float64", value_of("int64", 1)),
        ("int8", value_of("int32", 128)),
        ("int32", value_of("int64", 1 << 31)),
        ("int64", b"\x20" + b"\xff" * 10),
        ("int64", b"\x20\x01\x01"),
        ("int64", value_of("timestamp", 5)),
        ("bool", b"\x38\x02"),
        ("timestamp", value_of("timestamp", 1 << 50)),
        ("string", b"\x0a\x01a"),
        ("string", b"\x12\x02a"),
        ("string", b"\x12"),
        ("string", b"\x12\x81\x80\x04" + bytes(65_537)),
        ("float32[2]", b"\x82\x01\x06\x0a\x04" + bytes(4)),
        ("float32[2]", b"\x82\x01\x00"),
        ("int32[2]", b"\x6a\x03\x0a\x01\x05"),
        ("int32[1]", b"\x6a\x08\x0a\x06\x80\x80\x80\x80\x80\x01"),
        ("int64[1]", b"\x6a\x03\x0a\x01\x05"),
    ],
)
def test_what_is_no_such_value_is_unreadable(type_: str, raw: bytes) -> None:
    sound = decode(parse_type(type_), [raw, None])
    assert sound.unreadable.tolist() == [True, False]
    assert sound.nulls.tolist() == [False, True]
    assert decode(parse_type(type_), [raw]).unreadable.tolist() == [True]


def test_narrower_numbers_fill_wider_columns() -> None:
    raw = [value_of("float64", 0.1), value_of("float32", 0.5)]
    assert decode(parse_type("float64"), raw).values.tolist() == [0.1, 0.5]
    raw = [value_of("int32", -7), value_of("int64", 1 << 40)]
    assert decode(parse_type("int64"), raw).values.tolist() == [-7, 1 << 40]


def test_nothing_at_all() -> None:
    assert decode(parse_type("float32"), []).values.shape == (0,)
    assert decode(parse_type("float64[3]"), []).values.shape == (0, 3)
    assert decode(parse_type("float64[3]"), [None]).values.tolist() == [[0.0, 0.0, 0.0]]


@given(st.integers(0, (1 << 64) - 1))
def test_varints(number: int) -> None:
    assert varint(b"x" + to_varint(number) + b"y", 1) == (number, 1 + len(to_varint(number)))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", 0),
        (b"\x08\x01\x10\xe8\x07", 1_000_001),
        (b"\x08" + to_varint((1 << 64) - 1), -1_000_000),
    ],
)
def test_event_times(raw: bytes, expected: int) -> None:
    assert event_time_us(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [b"\x08", b"\x18\x01", b"\x10" + to_varint(10**9), b"\x08" + to_varint(1 << 50), b"\x08\x80"],
)
def test_what_is_no_event_time(raw: bytes) -> None:
    with pytest.raises(RowError):
        event_time_us(raw)


def test_a_full_view_is_one_matrix() -> None:
    view = FeastView(comparing.view_spec("v", "e", {f"f{i}": "float32" for i in range(50)}))
    want = np.random.default_rng(3).random((100, 50), np.float32)
    ordered = view.runs[0].names
    replies = [
        [*(value_of("float32", row[int(name[1:])]) for name in ordered), b"\x08\x05"]
        for row in want
    ]
    rows = rows_of(view, replies, 0)
    table = view.codec.table([row for row in rows if row is not None])
    got = np.column_stack([table.column(f"f{i}") for i in range(50)])
    assert got.tobytes() == want.tobytes()
