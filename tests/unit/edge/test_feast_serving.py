from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from backends.errors import ModelLoadError
from backends.model_settings import FeaturesSettings
from backends.signature import Signature, TensorSpec
from featurecache.feast.feast_layout import FeastLayout, FeastView
from featurecache.feast.feast_source import FeastSource
from featurecache.manifests.manifest import Manifest
from foundation.store import Store, StoreError, StoreSettings, open_store
from gateway.errors import ErrorCode, HeadraceError
from gateway.feast_serving import feast_names, layout_of
from gateway.feature_serving import FeatureFit, row_source
from gateway.feature_writing import ONLY_READ, open_pushes
from gateway.settings import FeatureSettings
from tests.support import feature_rows

DEFINITIONS = """
from featurecache.definitions import *

project = Project("ours")
airport = Entity("airport", keys={"origin": String})
rates = FeatureView("rates", entity=airport, columns=[Column("rate0", Float32), Column("rate1", Float32)])
other = FeatureView("other", entity=airport, columns=[Column("x", Float32)])
flights = FeatureService("flights", [rates["rate0"], rates["rate1"]])
"""
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),))


@pytest.fixture
def settings(tmp_path: Path) -> FeatureSettings:
    feature_rows.apply(tmp_path / "features", DEFINITIONS)
    return FeatureSettings(manifest=str(tmp_path / "features"), layout="feast")


def store_at(url: str) -> Store:
    return open_store(StoreSettings(redis_url=url))


def hashes_asked(layout: FeastLayout | None, keys: Sequence[bytes]) -> list[bytes]:
    assert layout is not None
    return [name for reads in layout.plan(keys).reads for name in reads.hashes]


def views_of(layout: FeastLayout | None) -> dict[str, list[bytes]]:
    """The fields that each view of ours is asked for."""
    assert layout is not None
    plan = layout.plan([b"hr:ours:{airport:JFK}:rates", b"hr:ours:{airport:JFK}:other"])
    return {view.name: view.fields for reads in plan.reads for view in reads.views}


# ---- which source ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://u:s3cret@localhost/3", "redis://localhost:6379"),
        ("rediss://[::1]:7000", "rediss://[::1]:7000"),
        ("unix:///run/valkey.sock?db=1", "unix:///run/valkey.sock"),
    ],
)
def test_plain_servers_and_sockets_are_read(settings: FeatureSettings, url: str, name: str) -> None:
    source = row_source(settings, store_at(url))
    assert isinstance(source, FeastSource)
    assert source.name == name
    assert not source.tracks


@pytest.mark.parametrize("url", ["redis+sentinel://u:s3cret@a,b/main", "redis+cluster://:s3cret@a"])
def test_others_are_refused_without_their_passwords(settings: FeatureSettings, url: str) -> None:
    with pytest.raises(StoreError, match="from one server only; write redis://HOST") as refused:
        row_source(settings, store_at(url))
    assert "s3cret" not in str(refused.value)
    packed = row_source(msgspec.structs.replace(settings, layout="packed"), store_at(url))
    assert layout_of(packed) is None


class _Private:
    url = "unix:///run/private.sock"
    trouble = ""

    def tend(self, now_s: float) -> None: ...
    def close(self) -> None: ...


def test_a_private_store_is_refused(settings: FeatureSettings) -> None:
    with pytest.raises(StoreError, match=r"set store\.redis_url to the server that Feast writes"):
        row_source(settings, Store(_Private(), is_private=True))


def test_without_a_manifest_there_is_no_source(tmp_path: Path) -> None:
    settings = FeatureSettings(manifest=str(tmp_path / "none.json"), layout="feast")
    with pytest.raises(StoreError, match=r"none\.json cannot be read.*headrace features apply"):
        row_source(settings, store_at("redis://h"))


def test_pushes_are_refused(settings: FeatureSettings) -> None:
    store = store_at("redis://h")
    pushes = open_pushes(
        msgspec.structs.replace(settings, push=True), store, row_source(settings, store)
    )
    with pytest.raises(HeadraceError) as refused:
        pushes.check()
    assert (refused.value.code, refused.value.message) == (ErrorCode.UNIMPLEMENTED, ONLY_READ)


# ---- names -------------------------------------------------------------------------------------------


def test_the_project_is_the_manifests_unless_it_is_named(settings: FeatureSettings) -> None:
    keys = [b"hr:ours:{airport:JFK}:rates"]
    [own] = hashes_asked(layout_of(row_source(settings, store_at("redis://h"))), keys)
    assert own.endswith(b"JFKours")
    named = msgspec.structs.replace(settings, feast_project="flights_demo")
    [theirs] = hashes_asked(layout_of(row_source(named, store_at("redis://h"))), keys)
    assert theirs.endswith(b"JFKflights_demo")


def test_views_have_the_names_that_the_settings_give_them(settings: FeatureSettings) -> None:
    named = msgspec.structs.replace(settings, feast_views=" rates = rates_v2 ,")
    fields = views_of(layout_of(row_source(named, store_at("redis://h"))))
    manifest = msgspec.json.decode(
        (Path(settings.manifest) / "manifest.json").read_bytes(), type=Manifest
    )
    assert fields["rates"] == FeastView(manifest.view("rates"), "rates_v2").fields
    assert fields["rates"] != FeastView(manifest.view("rates")).fields
    assert fields["other"] == FeastView(manifest.view("other")).fields


@pytest.mark.parametrize(
    ("text", "names"),
    [("", {}), ("a=b", {"a": "b"}), ("a=b, c = d", {"a": "b", "c": "d"}), ("a=b=c", {"a": "b=c"})],
)
def test_pairs_of_names(text: str, names: dict[str, str]) -> None:
    assert feast_names(text) == names


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rates", "'rates' is no pair of names; write OURS=THEIRS"),
        ("rates=", "is no pair"),
        ("=x", "is no pair"),
        ("rates=a,rates=b", "'rates' stands twice"),
        ("gone=a", "'gone'"),
    ],
)
def test_wrong_pairs_stop_the_start(settings: FeatureSettings, text: str, why: str) -> None:
    named = msgspec.structs.replace(settings, feast_views=text)
    with pytest.raises(StoreError, match=why):
        row_source(named, store_at("redis://h"))


# ---- a manifest that changes -------------------------------------------------------------------------


def test_a_model_whose_views_changed_since_the_start_is_refused(
    settings: FeatureSettings, tmp_path: Path
) -> None:
    fit = FeatureFit(settings, layout_of(row_source(settings, store_at("redis://h"))))
    asked = FeaturesSettings(service="flights")
    assert fit(asked, SIGNATURE) is not None
    more = 'Column("y", Float32), Column("x", Float32)'
    unused = DEFINITIONS.replace('Column("x", Float32)', more)
    feature_rows.apply(tmp_path / "features", unused)
    assert fit(asked, SIGNATURE) is not None, "a view that it does not use"
    used = unused.replace('Column("rate0"', 'Column("rate2", Float32), Column("rate0"')
    feature_rows.apply(tmp_path / "features", used)
    with pytest.raises(ModelLoadError, match=r"'rates' is new, or .* start the server again"):
        fit(asked, SIGNATURE)
    added = used + 'late = FeatureView("late", entity=airport, columns=[Column("z", Float32)])\n'
    added += 'lates = FeatureService("lates", [late["z"], other["x"]])\n'
    feature_rows.apply(tmp_path / "features", added)
    with pytest.raises(ModelLoadError, match="'late' is new"):
        fit(FeaturesSettings(service="lates"), SIGNATURE)
    again = FeatureFit(settings, layout_of(row_source(settings, store_at("redis://h"))))
    assert again(asked, SIGNATURE) is not None
    assert again(FeaturesSettings(service="lates"), SIGNATURE) is not None
