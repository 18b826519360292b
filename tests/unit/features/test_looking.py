from __future__ import annotations

import numpy as np
import pytest

from featurecache.definitions import Column, Entity, FeatureView, Float32, Int64, Project, String
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.manifest import ViewSpec
from featurecache.rows.codec import RowCodec
from featurecache.rows.schema import RowSchema
from featurecache.writing.looking import moment, raw, see

NOW_US = 1_795_000_000_000_000
KEY = b"hr:p:{user:a%7Cb}:v"


def view_of(**more: object) -> ViewSpec:
    view = FeatureView(
        "v",
        entity=Entity("user", keys={"uid": String}),
        columns=[Column("x", Float32), Column("n", Int64, default=7), Column("s", String)],
        max_age="1h",
        **more,  # type: ignore[arg-type]
    )
    return compile_manifest([Project("p"), view]).view("v")


def row_of(view: ViewSpec, age_s: float, nulls: str = "") -> bytes:
    columns = {"x": np.array([1.5]), "n": np.array([3]), "s": np.array([b"\xc3\xa4"], np.object_)}
    masks = {name: np.array([True]) for name in nulls}
    event = np.array([NOW_US - int(age_s * 1e6)])
    return RowCodec(view.schema).encode(columns, masks, event, NOW_US - 1)[0]


def told(view: ViewSpec, row: bytes | None) -> list[tuple[object, str]]:
    seen = see(view, KEY, row, now_us=NOW_US, expires_in_s=None)
    return [(one.value, one.status) for one in seen.values]


def test_a_sound_row() -> None:
    view = view_of()
    seen = see(view, KEY, row_of(view, 60), now_us=NOW_US, expires_in_s=5.0)
    assert (seen.status, seen.entity, seen.age_s, seen.expires_in_s) == ("PRESENT", "a%7Cb", 60, 5)
    assert (seen.event_time, seen.write_time) == (moment(NOW_US - 60_000_000), moment(NOW_US - 1))
    assert told(view, row_of(view, 60)) == [(1.5, "PRESENT"), (3, "PRESENT"), ("ä", "PRESENT")]


def test_what_stands_in_for_nulls_and_missing_rows() -> None:
    view = view_of()
    assert told(view, row_of(view, 60, nulls="xns")) == [
        (None, "NULL"),
        (7, "NULL"),
        (None, "NULL"),
    ]
    assert told(view, None) == [(None, "MISSING"), (7, "MISSING"), (None, "MISSING")]


def test_an_old_row_counts_as_the_view_says() -> None:
    view, using = view_of(), view_of(on_stale="use")
    assert told(view, row_of(view, 3601)) == [(None, "STALE"), (7, "STALE"), (None, "STALE")]
    assert told(using, row_of(using, 3601)) == [(1.5, "STALE"), (3, "STALE"), ("ä", "STALE")]


@pytest.mark.parametrize("damage", ["cut", "flip", "short", "foreign"])
def test_a_row_that_cannot_be_read_says_why(damage: str) -> None:
    view = view_of()
    row = row_of(view, 60)
    other = RowCodec(RowSchema([("y", Int64)]))
    bad = {
        "cut": row[:-8],
        "flip": row[:30] + bytes([row[30] ^ 1]) + row[31:],
        "short": b"abc",
        "foreign": other.encode({"y": np.array([1])}, {}, np.array([NOW_US]), NOW_US)[0],
    }[damage]
    seen = see(view, KEY, bad, now_us=NOW_US, expires_in_s=None)
    assert seen.status == "ERROR"
    assert seen.problem
    parts = raw(view, bad)
    if damage == "short":
        assert parts is None
    elif damage == "foreign":
        assert parts is not None
        assert (parts.schema, parts.checksum) == ("unknown", "ok")
    else:
        assert parts is not None
        assert (parts.schema, parts.checksum) == ("current", "wrong")


def test_a_time_that_no_calendar_has() -> None:
    assert moment(0) == "1970-01-01T00:00:00Z"
    assert moment(2**62).endswith("µs")
