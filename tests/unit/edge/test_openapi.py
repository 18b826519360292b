"""The document against the routes, the status table and itself."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import starlette.routing

from gateway.edge import openapi
from gateway.edge.feature_lookup import FeatureRoutes
from gateway.edge.feature_push import PushRoutes
from gateway.edge.http_app import DataRoutes
from gateway.edge.http_repository import RepositoryRoutes
from gateway.edge.status import HTTP_STATUS

DOCUMENT = openapi.document("1.2.3")
ALWAYS = {405, 408, 431}
"""Can happen on every path, and stand among the components only."""
BESIDES = {"parameters", "servers"}
"""What stands beside methods under a path."""


def served() -> set[tuple[str, str]]:
    # Listing them takes no front and no repository.
    kinds: tuple[Any, ...] = (DataRoutes, RepositoryRoutes, PushRoutes, FeatureRoutes)
    routes = [route for kind in kinds for route in object.__new__(kind).routes()]
    assert all(isinstance(route, starlette.routing.Route) for route in routes)
    return {
        (route.path, method.lower())
        for route in routes
        for method in (route.methods or ())
        if method != "HEAD"  # comes with every GET
    }


def described() -> set[tuple[str, str]]:
    return {
        (path, method)
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
        if method not in BESIDES
    }


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            if method not in BESIDES:
                yield f"{method} {path}", operation


def test_every_route_is_described_and_nothing_else() -> None:
    assert described() == served()


def test_every_reference_leads_somewhere_and_everything_is_used() -> None:
    named = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "parameters", "responses")
        for name in DOCUMENT["components"][kind]
    }
    used = set(references(DOCUMENT))
    assert used <= named
    everywhere = {
        f"#/components/responses/{name}"
        for name, (status, _) in openapi.RESPONSES.items()
        if status in ALWAYS
    }
    assert named - used == everywhere


def test_every_status_of_the_table_is_explained() -> None:
    explained = {status for status, _ in openapi.RESPONSES.values()}
    assert explained == set(HTTP_STATUS.values()) | ALWAYS


def test_parameters_of_paths_are_declared() -> None:
    for path, item in DOCUMENT["paths"].items():
        declared = {one["$ref"].rpartition("/")[2] for one in item.get("parameters", [])}
        assert declared == set(re.findall(r"{(\w+)}", path)), path


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_schemas_are_schemas(name: str) -> None:
    schema = {**DOCUMENT["components"]["schemas"][name], "components": DOCUMENT["components"]}
    jsonschema_rs.Draft202012Validator(schema)
    jsonschema_rs.meta.validate(DOCUMENT["components"]["schemas"][name])


def test_every_answer_says_what_it_means() -> None:
    for name, operation in operations():
        assert operation["summary"], name
        for status, response in operation["responses"].items():
            assert "$ref" in response or response["description"], (name, status)


def test_examples_keep_their_own_schemas() -> None:
    validators = {
        name: jsonschema_rs.Draft202012Validator(
            {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
        )
        for name in (
            "InferRequest",
            "IndexRequest",
            "LoadRequest",
            "UnloadRequest",
            "FeaturePush",
            "FeatureQuestion",
        )
    }
    checked = 0
    for _, operation in operations():
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is None:
            continue
        schema = body["schema"]["$ref"].rpartition("/")[2]
        for example in body["examples"].values():
            validators[schema].validate(example["value"])
            checked += 1
    assert checked == 8


def test_it_is_plain_json_that_says_its_version() -> None:
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    assert (DOCUMENT["openapi"], DOCUMENT["info"]["version"]) == ("3.1.0", "1.2.3")


def test_the_page_names_every_path() -> None:
    page = openapi.page("1.2.3")
    assert "Headrace 1.2.3" in page
    for path, method in described():
        assert f"<td>{method.upper()}</td><td><code>{path}</code></td>" in page
