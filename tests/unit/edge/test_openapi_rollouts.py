"""The document about rollouts against the routes, the schemas and itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from gateway.edge import openapi, openapi_rollouts, rollout_routes
from gateway.edge.rollout_routes import RolloutRoutes
from tests.unit.edge.rollout_admin import (
    DOCUMENT,
    PROPOSAL,
    World,
    in_world,
    validator,
)


def test_every_route_is_described_and_nothing_else() -> None:
    served = {
        (route.path, method.lower())
        for route in object.__new__(RolloutRoutes).routes()
        for method in (route.methods or ())
        if method != "HEAD"
    }
    described = {
        (path, method)
        for path, item in openapi_rollouts.paths(openapi._errors).items()
        for method in item
        if method not in {"parameters", "servers"}
    }
    assert described == served
    whole = {path for path in DOCUMENT["paths"] if path.startswith("/v2/rollouts")}
    assert whole == {path for path, _ in served}
    page = openapi.page("1.2.3", with_rollouts=True)
    assert all(f"<code>{path}</code>" in page for path in whole)


def test_without_rollouts_nothing_is_told_of_them() -> None:
    without = json.dumps(openapi.document("1.2.3"))
    assert "ollout" not in without
    assert "rollouts" not in openapi.page("1.2.3")


def test_the_document_refers_to_what_it_has() -> None:
    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            for key, value in part.items():
                yield from [value] if key == "$ref" else references(value)
        elif isinstance(part, list):
            for value in part:
                yield from references(value)

    named = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "parameters", "responses")
        for name in DOCUMENT["components"][kind]
    }
    used = set(references(DOCUMENT))
    assert used <= named
    ours = {name for name in named - used if "ollout" in name or "If-" in name or "x-h" in name}
    assert ours == set()
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


@pytest.mark.parametrize(
    "name", [name for name in DOCUMENT["components"]["schemas"] if name.startswith("Rollout")]
)
def test_schemas_are_schemas(name: str) -> None:
    jsonschema_rs.meta.validate(DOCUMENT["components"]["schemas"][name])
    validator(name)


def test_examples_keep_their_schemas_and_can_be_submitted(tmp_path: Path) -> None:
    validator("RolloutProposal").validate(PROPOSAL)
    words = validator("RolloutEventWords")
    for item in openapi_rollouts.paths(openapi._errors).values():
        if "post" in item:
            content = item["post"]["requestBody"]["content"]["application/json"]
            words.validate(content["examples"]["with a reason"]["value"])

    async def test(world: World) -> None:
        assert (await world.submit()).status_code == 201

    in_world(tmp_path, test)


def test_the_port_serves_document_and_index(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert (await world.ask("GET", "/openapi.json")).json() == DOCUMENT
        assert "/v2/rollouts" in (await world.ask("GET", "/")).json()["paths"]

    in_world(tmp_path, test)


def test_every_kind_of_denial_has_a_status() -> None:
    kinds = msgspec.inspect.type_info(rollout_routes.DenialKind)
    assert set(rollout_routes.STATUS) == set(kinds.values)
