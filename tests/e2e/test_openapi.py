"""The OpenAPI document against a real server: its examples work, and nothing that schemathesis makes of it breaks a
promise. ``make fuzz`` asks for more examples."""

import copy
import http.client
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks as openapi_checks

from gateway.edge import openapi
from tests.support import feature_rows, models
from tests.support.redis_servers import ValkeyServer
from tests.support.server_process import ServerProcess

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
"""For each operation, way of making data, and choice of model."""
TOLERATED = {501, 503, 504}
BY_NAME = ("fraud", "text", "several", "nobody")

DOCUMENT = openapi.document("0")
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=schemathesis.Config())
OPERATIONS = {
    f"{one.method.upper()} {one.path}": one
    for one in (found.ok() for found in SCHEMA.get_all_operations())
}
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
TURNS = [(name, POSITIVE) for name in OPERATIONS]
TURNS += [
    (name, NEGATIVE) for name in OPERATIONS if name.startswith("POST")
]  # a GET takes nothing that could be wrong
CHECKS = [
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("described_models")
    models.write_model(root, openapi.EXAMPLE_MODEL, models.identity())
    models.write_model(root, "text", models.identity("BYTES"))
    models.write_model(root, "several", models.mixed_inputs())
    with ServerProcess(root) as running:
        yield running


def asked(
    server: ServerProcess, method: str, path: str, body: bytes, fields: dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*server.http, timeout=10)
    try:
        connection.request(method, path, body or None, fields)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def test_the_admin_port_serves_it(server: ServerProcess) -> None:
    served = json.loads(server.get_admin("/openapi.json"))
    assert served["paths"] == DOCUMENT["paths"]
    assert "/openapi.json" in json.loads(server.get_admin("/"))["paths"]


def test_a_person_with_a_browser_gets_a_page(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection(*server.admin, timeout=10)
    try:
        connection.request("GET", "/", headers={"accept": "text/html,*/*;q=0.8"})
        response = connection.getresponse()
        page = response.read().decode()
        assert response.getheader("content-type") == "text/html; charset=utf-8"
    finally:
        connection.close()
    assert "/v2/models/{model}/infer" in page


def filled(path: str) -> str:
    for name, parameter in DOCUMENT["components"]["parameters"].items():
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", parameter["example"])
    return path


@pytest.mark.parametrize("path", [path for path in DOCUMENT["paths"] if path.endswith("/infer")])
def test_examples_of_infer_work(server: ServerProcess, path: str) -> None:
    content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]
    for example in content["application/json"]["examples"].values():
        body = json.dumps(example["value"]).encode()
        status, _, answer = asked(server, "POST", filled(path), body, {})
        assert status == 200, answer
        assert json.loads(answer)["id"] == example["value"]["id"]
    for example in content["application/octet-stream"]["examples"].values():
        name, _, length = example["summary"].removeprefix("with ").partition(": ")
        body = example["value"].encode()
        status, fields, answer = asked(server, "POST", filled(path), body, {name: length})
        assert status == 200, answer
        assert fields["content-type"] in content


@pytest.mark.parametrize(
    "path",
    [
        path
        for path, item in DOCUMENT["paths"].items()
        if "get" in item and "servers" not in item  # the admin port's: there are no features here
    ],
)
def test_every_get_works_on_the_example_model(server: ServerProcess, path: str) -> None:
    status, fields, answer = asked(server, "GET", filled(path), b"", {})
    assert (status, fields["content-type"]) == (200, "application/json"), answer


def test_the_repository_under_control(tmp_path: Path) -> None:
    """The examples of index, unload and load work, and so does what schemathesis makes of load and unload."""
    models.write_model(tmp_path, openapi.EXAMPLE_MODEL, models.identity())
    control = {"repository.control": "explicit", "repository.startup_models": "*"}
    with ServerProcess(tmp_path, control) as server:
        for end in ("index", f"models/{openapi.EXAMPLE_MODEL}/unload", "index"):
            status, _, answer = asked(
                server, "POST", f"/v2/repository/{end}", b'{"ready":true}', {}
            )
            assert status == 200, answer
        assert json.loads(answer) == []
        for name, operation in OPERATIONS.items():
            if name.endswith(("/load", "/unload")):
                assert 404 in ask_many(server, operation.as_strategy(POSITIVE))
                path = {"model": openapi.EXAMPLE_MODEL}
                assert 200 in ask_many(
                    server, operation.as_strategy(POSITIVE, path_parameters=path)
                )


@pytest.mark.parametrize("mode", [POSITIVE, NEGATIVE])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if "/features" in name])
def test_features_switched_on(
    features_server: ServerProcess, name: str, mode: schemathesis.GenerationMode
) -> None:
    known = {"view": "profile", "service": "basket"}
    named = {key: value for key, value in known.items() if f"{{{key}}}" in name}
    if mode == POSITIVE or name.startswith("POST"):
        operation = OPERATIONS[name]
        strategy = operation.as_strategy(mode, path_parameters=named or None)
        assert ask_many(features_server, st.one_of(strategy, operation.as_strategy(mode)))


@pytest.fixture(scope="module")
def features_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("described_features")
    feature_rows.apply(folder / "features")
    models.write_model(folder / "models", openapi.EXAMPLE_MODEL, models.identity())
    with ValkeyServer() as store:
        settings = {
            "features.manifest": folder / "features",
            "features.push": True,
            "store.redis_url": store.url,
        }
        with ServerProcess(folder / "models", settings) as running:
            yield running


def cases(operation: Any, mode: schemathesis.GenerationMode) -> st.SearchStrategy[Any]:
    """Cases on models that are there, and on whatever else stands in a path."""
    path = operation.path
    if "{model}" not in path:
        return operation.as_strategy(mode)
    known = [
        operation.as_strategy(mode, path_parameters={"model": name} | _version_of(path))
        for name in BY_NAME
    ]
    return st.one_of(*known, operation.as_strategy(mode))


def _version_of(path: str) -> dict[str, str]:
    return {"version": "1"} if "{version}" in path else {}


@pytest.mark.parametrize(("name", "mode"), TURNS)
def test_the_server_keeps_what_the_document_says(
    server: ServerProcess, name: str, mode: schemathesis.GenerationMode
) -> None:
    ask_many(server, cases(OPERATIONS[name], mode))


def test_requests_that_fit_the_model_nearly_or_wholly(server: ServerProcess) -> None:
    answers = ask_many(server, fitting().as_strategy(POSITIVE, path_parameters={"model": "fraud"}))
    assert 200 in answers
    assert 400 in answers


def fitting() -> Any:
    """The infer operation of a document that knows the example model's input."""
    known = copy.deepcopy(DOCUMENT)
    schemas = known["components"]["schemas"]
    # What is no FP32 would come back as Infinity, which is no JSON.
    number = {"type": "number", "minimum": -1e38, "maximum": 1e38}
    row = {"type": "array", "items": number, "minItems": 4, "maxItems": 4}
    wanted = schemas["InferInput"]
    wanted["properties"] |= {
        "name": {"const": "x"},
        "datatype": {"const": "FP32"},
        "shape": {"enum": [[1, 4], [2, 4]]},
        "data": {"anyOf": [row, {"type": "array", "items": row, "minItems": 1, "maxItems": 2}]},
        "parameters": {"type": "null"},
    }
    wanted["required"] = ["name", "datatype", "shape", "data"]
    schemas["InferRequest"]["properties"]["inputs"] |= {"minItems": 1, "maxItems": 1}
    schemas["InferRequestedOutput"]["properties"]["name"] = {"enum": ["y", "z"]}
    del schemas["InferParameters"]["properties"]["sequence_id"]
    operation = known["paths"]["/v2/models/{model}/infer"]["post"]
    operation["parameters"] = []
    del operation["requestBody"]["content"]["application/octet-stream"]
    schema = schemathesis.openapi.from_dict(known, config=schemathesis.Config())
    return schema["/v2/models/{model}/infer"]["POST"]


def ask_many(server: ServerProcess, strategy: st.SearchStrategy[Any]) -> set[int]:
    """The statuses of the answers, which keep what the document says."""
    addresses = {
        path: "http://{}:{}".format(*(server.admin if "servers" in item else server.http))
        for path, item in DOCUMENT["paths"].items()
    }
    statuses: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="FUZZ_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def ask(case: Any) -> None:
        response = case.call(base_url=addresses[case.operation.path])
        statuses.add(response.status_code)
        assert response.status_code < 500 or response.status_code in TOLERATED, response.content
        case.validate_response(response, checks=CHECKS)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generator's own
        ask()
    assert server.process.poll() is None
    return statuses
