"""The manifest as a file: a golden one, and what is refused."""

from __future__ import annotations

import re

import msgspec
import pytest

from featurecache.definitions import (
    Column,
    Entity,
    FeatureService,
    FeatureView,
    Float32,
    Input,
    Int32,
    ParquetSource,
    Project,
    String,
    Vector,
    on_demand,
)
from featurecache.errors import DefinitionError
from featurecache.manifests.compiling import compile_manifest
from featurecache.manifests.manifest import (
    MAX_MANIFEST_BYTES,
    ColumnSpec,
    EntitySpec,
    FeatureRef,
    Manifest,
    ViewSpec,
    decode_manifest,
    encode_manifest,
)

GOLDEN = b"""\
{
  "project": "flights",
  "entities": [
    {
      "name": "route",
      "keys": {
        "origin": "string",
        "dest": "string"
      }
    }
  ],
  "views": [
    {
      "name": "weather",
      "entity": "route",
      "columns": [
        {
          "name": "temp",
          "type": "float32"
        },
        {
          "name": "sky",
          "type": "string",
          "default": "clear",
          "description": "cover, \xc2\xb0"
        },
        {
          "name": "hourly",
          "type": "float32[2]",
          "default": [
            1,
            2.5
          ]
        },
        {
          "name": "n",
          "type": "int32",
          "default": 0
        }
      ],
      "source": {
        "path": "weather/*.parquet",
        "event_time": "known_at"
      },
      "max_age_s": 10800.0,
      "retention_s": 604800.0,
      "cache_ttl_s": 60.0,
      "stale_if_error_s": 86400.0,
      "on_stale": "use",
      "tags": {
        "tier": "1"
      },
      "older": [
        [
          [
            "temp",
            "float32"
          ]
        ]
      ]
    }
  ],
  "inputs": [
    {
      "name": "distance",
      "type": "float32"
    }
  ],
  "on_demand": [
    {
      "name": "chill",
      "type": "float32",
      "inputs": [
        {
          "kind": "view",
          "name": "weather",
          "column": "temp"
        },
        {
          "kind": "input",
          "name": "distance"
        }
      ],
      "default": 0.0
    }
  ],
  "services": [
    {
      "name": "flights",
      "tensors": [
        {
          "name": "x",
          "features": [
            {
              "kind": "on_demand",
              "name": "chill"
            },
            {
              "kind": "view",
              "name": "weather",
              "column": "temp",
              "keys": {
                "origin": "dest",
                "dest": "origin"
              }
            }
          ]
        },
        {
          "name": "origin",
          "features": [
            {
              "kind": "key",
              "name": "origin"
            }
          ]
        }
      ]
    }
  ],
  "code": "features.py",
  "code_digest": "ab",
  "revision": 7,
  "format": 1
}
"""


def _manifest() -> Manifest:
    route = Entity("route", keys={"origin": String, "dest": String})
    weather = FeatureView(
        "weather",
        entity=route,
        source=ParquetSource("weather/*.parquet", event_time="known_at"),
        columns=[
            Column("temp", Float32),
            Column("sky", String, default="clear", description="cover, °"),
            Column("hourly", Vector(Float32, 2), default=[1, 2.5]),
            Column("n", Int32, default=0),
        ],
        max_age="3h",
        retention="7d",
        cache_ttl="1m",
        stale_if_error="1d",
        on_stale="use",
        tags={"tier": "1"},
    )
    distance = Input("distance", Float32)
    chill = on_demand(
        inputs=[weather["temp"], distance], output=Column("chill", Float32, default=0.0)
    )(lambda temp, distance: temp)
    back = weather.by(origin="dest", dest="origin")["temp"]
    service = FeatureService("flights", {"x": [chill, back], "origin": [route["origin"]]})
    manifest = compile_manifest([Project("flights"), service])
    (view,) = manifest.views
    return msgspec.structs.replace(
        manifest,
        views=[msgspec.structs.replace(view, older=[[("temp", "float32")]])],
        revision=7,
        code="features.py",
        code_digest="ab",
    )


def test_the_golden_file() -> None:
    assert encode_manifest(_manifest()) == GOLDEN
    assert decode_manifest(GOLDEN, "manifest.json") == _manifest()


def test_the_format_always_stands_there() -> None:
    text = encode_manifest(Manifest("p", [], []))
    assert msgspec.json.decode(text) == {"project": "p", "entities": [], "views": [], "format": 1}
    assert decode_manifest(text, "x") == Manifest("p", [], [])


def test_fields_that_a_later_version_added_are_passed_over() -> None:
    text = GOLDEN.replace(b'"project"', b'"colour": {"a": [1]}, "project"')
    assert decode_manifest(text, "x") == _manifest()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            b"",
            "m.json: no manifest (Input data was truncated); write it with `headrace features apply`",
        ),
        (b"[]", "m.json: no manifest (Expected `object`, got `array`)"),
        (b'{"project": "p", "entities": []}', "missing required field `views`"),
        (GOLDEN.replace(b'"view"', b'"vew"'), "Invalid enum value 'vew'"),
        (
            GOLDEN.replace(b'"revision": 7', b'"revision": "7"'),
            "Expected `int`, got `str` - at `$.revision`",
        ),
        (GOLDEN.replace(b"clear", b"cl\xffar"), "m.json: no manifest ("),
        (GOLDEN[:-5], "m.json: no manifest ("),
        (GOLDEN.replace(b'"project"', b'"x": ' + b"[" * 100_000), "m.json: no manifest ("),
        (
            GOLDEN.replace(b'"format": 1', b'"format": 2'),
            "m.json: format 2; this version reads format 1",
        ),
        (b" " * (MAX_MANIFEST_BYTES + 1), "m.json: larger than 16777216 bytes; is it a manifest?"),
    ],
    ids=range(10),
)
def test_what_is_no_manifest(text: bytes, sentence: str) -> None:
    with pytest.raises(DefinitionError, match=re.escape(sentence)):
        decode_manifest(text, "m.json")


def test_the_digest_is_of_what_is_defined() -> None:
    manifest = _manifest()
    replace = msgspec.structs.replace
    assert replace(manifest, revision=8).digest == manifest.digest
    assert decode_manifest(GOLDEN, "x").digest == manifest.digest
    assert replace(manifest, project="q").digest != manifest.digest
    assert replace(manifest, code_digest="cd").digest != manifest.digest
    (view,) = manifest.views
    assert replace(manifest, views=[replace(view, max_age_s=1.0)]).digest != manifest.digest
    turned = replace(view, tags={}), replace(view, columns=view.columns[::-1])
    assert len({replace(manifest, views=[one]).digest for one in turned}) == 2


def test_the_digest_knows_the_order_of_keys_but_not_of_tags() -> None:
    def of(keys: dict[str, str], tags: dict[str, str]) -> str:
        views = [ViewSpec("v", "e", [ColumnSpec("a", "float32")], tags=tags)]
        return Manifest("p", [EntitySpec("e", keys)], views).digest

    one, turned = {"a": "string", "b": "string"}, {"b": "string", "a": "string"}
    assert of(one, one) == of(one, turned)
    assert of(one, one) != of(turned, one)


def test_finding_by_name() -> None:
    manifest = _manifest()
    assert manifest.view("weather").column("sky").default == "clear"
    assert manifest.entity("route").keys == {"origin": "string", "dest": "string"}
    assert str(manifest.input("distance").parsed) == "float32"
    assert str(manifest.on_demand_feature("chill").parsed) == "float32"
    assert [str(ref) for ref in manifest.service("flights").refs] == [
        "chill",
        "weather(origin=dest,dest=origin).temp",
        "origin",
    ]
    for find, sentence in (
        (manifest.view, "no feature view 'x'; the manifest has weather"),
        (manifest.entity, "no entity 'x'; the manifest has route"),
        (manifest.service, "no feature service 'x'; the manifest has flights"),
        (manifest.input, "no request-time input 'x'; the manifest has distance"),
        (manifest.on_demand_feature, "no on-demand feature 'x'; the manifest has chill"),
        (Manifest("p", [], []).view, "no feature view 'x'; the manifest has none"),
    ):
        with pytest.raises(DefinitionError, match=sentence):
            find("x")


def test_references_that_share_a_lookup() -> None:
    plain = FeatureRef("view", "v", "a")
    assert plain.use == FeatureRef("view", "v", "b").use
    swapped = FeatureRef("view", "v", "a", {"x": "y", "y": "x"})
    assert swapped.use == FeatureRef("view", "v", "b", {"y": "x", "x": "y"}).use
    assert plain.use != swapped.use


def test_schemas_of_a_view() -> None:
    view = _manifest().view("weather")
    assert list(view.schema.slots) == ["temp", "sky", "hourly", "n"]
    assert [list(one.slots) for one in view.older_schemas] == [["temp"]]
