"""A shop on a real store: a model for every way of being completed, the gateway that serves them, and who asks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.support import feature_rows, models
from tests.support.feature_rows import (
    BASKET_WIDTH,
    Rows,
    amounts,
    features_toml,
    profile_of,
    users,
    write_seen,
)
from tests.support.protocol_callers import Answer, Ask, Caller, CallError
from tests.support.redis_servers import ValkeyServer
from tests.support.server_process import ServerProcess

USERS = range(400)
REWRITTEN = 594
"""A user whose rows tests may change."""
ROUTES = {("OSL", "BGO"): (1.5, 60.0), ("BGO", "OSL"): (2.5, 70.0), ("a|b", "c"): (3.5, 80.0)}
ODD_NAMES = ["ünï", "a b", "x:y}z{", "a%20b", "a|b"]
WITH_STATUS = {"feature_status": True}
SHOP_WAYS = ("http-lane", "http-gzip", "http.aio-lane", "grpc", "grpc.aio")


class Shop:
    """A context: ``server`` serves, ``rows`` writes to its store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()

    def __enter__(self) -> Shop:
        with ExitStack() as starting:
            manifest = feature_rows.apply(self._folder / "features")
            write_models(self._folder / "models")
            store = starting.enter_context(ValkeyServer())
            self.rows = Rows(starting.enter_context(store.client()), manifest)
            write_rows(self.rows)
            settings = {
                "features.manifest": self._folder / "features",
                "store.redis_url": store.url,
            }
            server = ServerProcess(self._folder / "models", settings)
            self.server = starting.enter_context(server)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.__exit__(kind, error, trace)


def write_models(root: Path) -> None:
    write_seen(root, "basket", BASKET_WIDTH, features_toml("basket"))
    models.write_model(root, "scores", models.linear(BASKET_WIDTH), toml=features_toml("basket"))
    models.write_model(root, "scores_raw", models.linear(BASKET_WIDTH))
    for name, source in (("by_parameter", "parameter:who"), ("by_header", "header:X-User")):
        write_seen(root, name, BASKET_WIDTH, features_toml("basket", {"user_id": source}))
    write_seen(root, "routes", 2, features_toml("routes"))
    both = {"origin": "header:x-origin", "dest": "input:to"}
    write_seen(root, "routes_mixed", 2, features_toml("routes", both))
    write_seen(root, "items", 2, features_toml("items"), datatype="FP64")
    by_parameter = features_toml("items", {"item_id": "parameter:item"})
    # A model with a key alone would leave nothing for the request to carry.
    write_seen(
        root, "item_by_parameter", 3, by_parameter.replace("items", "priced"), datatype="FP64"
    )
    write_seen(root, "shares", 2, features_toml("shares"))
    write_seen(root, "bounds", 2, features_toml("bounds"))
    write_seen(root, "known", 2, features_toml("known"))
    models.write_model(root, "cards", models.mixed_inputs(), toml=features_toml("cards"))
    guarded = features_toml("basket", more="max_defaulted_fraction = 0.25")
    write_seen(root, "guarded", BASKET_WIDTH, guarded)
    # Three versions side by side: the model's features, other ones, none at all.
    every = features_toml("basket") + '[versions]\npolicy = "all"\n'
    write_seen(root, "versions", BASKET_WIDTH, every)
    write_seen(root, "versions", 2, every, version=2)
    write_seen(root, "versions", 3, every, version=3)
    (root / "versions/2/version.toml").write_text(features_toml("routes"))
    (root / "versions/3/version.toml").write_text("[features]\n")


def write_rows(rows: Rows) -> None:
    rows.put_users([*USERS, REWRITTEN])
    rows.put_routes(ROUTES)
    rows.put("stock", [[7, -1, 2**62]], {"left": [70, 10, 620], "price": [0.7, 0.1, 6.2]})
    rows.put("stock", [[8]], {"left": [80], "price": [0.0]}, nulls={"price": [True]})
    names = [[one.encode() for one in ODD_NAMES]]
    numbers = range(len(ODD_NAMES))
    columns = {
        name: [getattr(profile_of(one), name) for one in numbers]
        for name in ("age", "score", "spend", "recent", "tier", "is_vip")
    }
    rows.put("profile", names, columns)


# ---- asking ------------------------------------------------------------------------------------------


def ask_basket(
    way: Caller, numbers: Any, *, model: str = "basket", binary: bool = True, **more: Any
) -> Answer:
    """A prediction for users; their amounts count up by quarters from 0."""
    inputs = [
        users(numbers, binary=binary),
        amounts([one / 4 for one in range(len(numbers))], binary=binary),
    ]
    return way.ask(Ask(model, inputs, **more))


def refusal(way: Caller, ask: Ask, http: str, grpc: str) -> str:
    """The sentence with which a request is refused; it must have this status."""
    with pytest.raises(CallError) as refused:
        way.ask(ask)
    assert refused.value.status == (http if way.is_http else grpc), refused.value
    return refused.value.message
