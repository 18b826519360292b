"""A shop's features for tests: definitions as somebody would write them, rows in a real store, models that show them.

What a row holds follows from its id alone, so a test can say what a model must have seen without asking anybody.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import redis

from featurecache.manifests.applying import apply_definitions
from featurecache.manifests.manifest import Manifest
from featurecache.rows.codec import RowCodec
from featurecache.rows.keys import ids_of, key_frame
from tests.support import models
from tests.support.protocol_callers import Answer, Array, Given

DEFINITIONS = """
from featurecache.definitions import *

project = Project("shop")
user = Entity("user", keys={"user_id": String})
route = Entity("route", keys={"origin": String, "dest": String})
item = Entity("item", keys={"item_id": Int64})

profile = FeatureView(
    "profile",
    entity=user,
    columns=[
        Column("age", Float32, default=-1.0),
        Column("score", Float32, default=-2.0),
        Column("spend", Float64, default=-3.0),
        Column("recent", Vector(Float32, 3), default=[-4.0, -5.0, -6.0]),
        Column("tier", String, default="none"),
        Column("is_vip", Bool, default=False),
    ],
    max_age="1h",
    cache_ttl="1m",
    stale_if_error="1d",
)
delays = FeatureView(
    "delays",
    entity=route,
    columns=[Column("mean", Float32, default=-7.0), Column("worst", Float32, default=-8.0)],
    max_age="1h",
)
stock = FeatureView(
    "stock",
    entity=item,
    columns=[Column("left", Int32, default=-1), Column("price", Float64)],
    cache_ttl="1m",
    on_null="fail",
)
limits = FeatureView(
    "limits", entity=user, columns=[Column("limit", Float32)], on_missing="fail", on_stale="fail", max_age="1h"
)
last_seen = FeatureView(
    "last_seen", entity=user, columns=[Column("seen", Float32, default=-9.0)], max_age="1h"
)
amount = Input("amount", Float32)


@on_demand(inputs=[amount, profile["spend"]], output=Column("share", Float32))
def share(amount, spend):
    return amount / spend


basket = FeatureService("basket", [amount, profile["age"], profile["score"], profile["recent"]])
routes = FeatureService("routes", [delays["mean"], delays["worst"]])
items = FeatureService("items", [stock["left"], stock["price"]])
priced = FeatureService("priced", [amount, stock["left"], stock["price"]])
shares = FeatureService("shares", [amount, share])
bounds = FeatureService("bounds", [limits["limit"], profile["age"]])
known = FeatureService("known", [last_seen["seen"], profile["age"]])
cards = FeatureService(
    "cards", {"name": [profile["tier"]], "amount": [profile["spend"]], "flag": [profile["is_vip"]]}
)
"""

BASKET_WIDTH = 6
BASKET_DEFAULTS = (-1.0, -2.0, -4.0, -5.0, -6.0)
KNOWN_DEFAULTS = (-9.0, -1.0)


class Profile(NamedTuple):
    """What the store knows of a user."""

    age: float
    score: float
    spend: float
    recent: tuple[float, float, float]
    tier: str
    is_vip: bool


def profile_of(number: int) -> Profile:
    """Of user ``u<number>``; every value is exact in its type."""
    n = float(number)
    return Profile(
        n, n / 8 + 0.5, 2 * n + 1, (n, n + 0.25, n + 0.5), f"tier {number % 3} é", number % 2 == 0
    )


def basket_row(number: int, amount: float) -> list[float]:
    """What a model of service ``basket`` sees for ``u<number>``."""
    known = profile_of(number)
    return [amount, known.age, known.score, *known.recent]


def apply(folder: Path, text: str = DEFINITIONS) -> Manifest:
    """Apply definitions to ``folder``, as ``headrace features apply`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}-definitions.py"
    file.write_text(text, encoding="utf-8")
    return apply_definitions(file, folder).manifest


# ---- rows --------------------------------------------------------------------------------------------


class Rows:
    """Writes rows of a manifest into a store; ``client`` is another client than the gateway's."""

    def __init__(self, client: redis.Redis, manifest: Manifest) -> None:
        self.client = client
        self._manifest = manifest

    def put(
        self,
        view: str,
        ids: Sequence[Iterable[bytes | int]],
        columns: Mapping[str, Any],
        *,
        age_s: float = 0.0,
        nulls: Mapping[str, Sequence[bool]] | None = None,
    ) -> None:
        """One row per id. ``ids``: the entity's keys, column by column; ``age_s``: how old the rows shall be."""
        spec = self._manifest.view(view)
        keys = [self.key(view, one) for one in ids_of(ids)]
        codec = RowCodec(spec.schema)
        now_us = int((time.time() - age_s) * 1e6)
        made = {
            one.name: np.array(
                columns[one.name], object if one.type == "string" else one.parsed.dtype
            )
            for one in spec.columns
        }
        masks = {name: np.array(mask) for name, mask in (nulls or {}).items()}
        rows = codec.encode(made, masks, np.full(len(keys), now_us), now_us)
        assert self.client.mset(dict(zip(keys, rows, strict=True)))

    def key(self, view: str, id_: bytes) -> bytes:
        """Where the row of an entity lies; ``id_`` as keys have it, escaped."""
        spec = self._manifest.view(view)
        before, behind = key_frame(self._manifest.project, spec.entity, view)
        return before + id_ + behind

    def put_users(self, numbers: Sequence[int], *, age_s: float = 0.0) -> None:
        """``profile``, ``limits`` and ``last_seen`` of ``u<number>``."""
        ids = [[b"u%d" % one for one in numbers]]
        known = [profile_of(one) for one in numbers]
        columns = {name: [getattr(one, name) for one in known] for name in Profile._fields}
        self.put("profile", ids, columns, age_s=age_s)
        self.put("limits", ids, {"limit": [1000.0 + one for one in numbers]}, age_s=age_s)
        self.put("last_seen", ids, {"seen": [2000.0 + one for one in numbers]}, age_s=age_s)

    def put_routes(self, routes: Mapping[tuple[str, str], tuple[float, float]]) -> None:
        """``delays``: (mean, worst) by (origin, dest)."""
        ids = [[origin.encode() for origin, _ in routes], [dest.encode() for _, dest in routes]]
        means, worsts = zip(*routes.values(), strict=True)
        self.put("delays", ids, {"mean": means, "worst": worsts})


# ---- models ------------------------------------------------------------------------------------------


def features_toml(
    service: str,
    keys: Mapping[str, str] | None = None,
    *,
    budget_ms: float = 500.0,
    more: str = "",
) -> str:
    """``[features]`` with room for a busy machine; ``keys``: where join keys come from."""
    sources = ", ".join(f'{key} = "{source}"' for key, source in (keys or {}).items())
    return (
        f'[features]\nservice = "{service}"\nlookup_budget_ms = {budget_ms}\n{more}\n'
        f"keys = {{{sources}}}\n"
    )


def write_seen(
    root: Path, name: str, width: int, toml: str | None, *, datatype: str = "FP32", version: int = 1
) -> None:
    """A model whose output is what it was given: ``y = x``."""
    models.write_model(root, name, models.identity(datatype, ("n", width)), version, toml)


# ---- requests ----------------------------------------------------------------------------------------


def texts(values: Sequence[str | bytes]) -> Array:
    """BYTES ``(rows, 1)``."""
    listed = [one.encode() if isinstance(one, str) else one for one in values]
    found: Array = np.empty((len(listed), 1), np.object_)
    found[:, 0] = listed
    return found


def floats(values: Sequence[float]) -> Array:
    """FP32 ``(rows, 1)``."""
    return np.array(values, np.float32).reshape(-1, 1)


def users(numbers: Sequence[int], *, binary: bool = True) -> Given:
    """``user_id`` of ``u<number>``."""
    return Given("user_id", "BYTES", texts([f"u{one}" for one in numbers]), binary)


def amounts(values: Sequence[float], *, binary: bool = True) -> Given:
    """``amount``."""
    return Given("amount", "FP32", floats(values), binary)


def status_of(answer: Answer) -> dict[str, Any]:
    """What ``feature_status`` told."""
    told: dict[str, Any] = json.loads(answer.parameters["feature_status"])
    return told


def row_statuses(report: Mapping[str, Any], view: str, rows: int) -> list[str]:
    """Of each row; all PRESENT is told without a list."""
    listed: list[str] = report["views"][view].get("rows") or ["PRESENT"] * rows
    return listed
