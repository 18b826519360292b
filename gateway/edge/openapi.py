"""The OpenAPI 3.1 document of V2 REST, served at the admin port.

Decides how the data port's paths are told to programs and people: what each takes, what it answers, and what every
status means. A plain dictionary, built once. It must never describe a path that is not served, or leave one out: a test
compares it with the routes. Every example works on a model like ``EXAMPLE_MODEL``.
"""

from __future__ import annotations

from typing import Any

from gateway.edge import openapi_features, openapi_rollouts
from gateway.edge.openapi_schemas import TEXT, Schema, listed, ref, schemas

VERSION = "3.1.0"
EXAMPLE_MODEL = "fraud"
"""A model with one input ``x`` of FP32 [-1, 4]; so the README has it."""

_JSON, _BYTES = "application/json", "application/octet-stream"
_HEADER = "Inference-Header-Content-Length"

RESPONSES: dict[str, tuple[int, str]] = {
    "BadRequest": (400, "The request can never work as it is: the sentence says what to change."),
    "Unauthenticated": (401, "This server asks for an API key, and this is none."),
    "Forbidden": (
        403,
        "The key may not ask this model or push this view, or what is asked for is switched off here.",
    ),
    "NotFound": (404, "No such model, version or path."),
    "MethodNotAllowed": (405, "The path is known, the method is not; Allow says which are."),
    "TooSlow": (408, "Headers or body did not arrive in time; the connection closes."),
    "FeaturesMissing": (
        424,
        "The model's features could not be found for this request, and may not be guessed; the sentence names them.",
    ),
    "QuotaExceeded": (429, "The key is over its quota; Retry-After says when to try again."),
    "HeadersTooLarge": (431, "Request line and headers are too large; the connection closes."),
    "Internal": (500, "The model failed, or the server did; its log says more."),
    "NotOffered": (501, "Part of the protocol, but not offered here."),
    "NotNow": (
        503,
        "Overload, or the model is not ready. With Retry-After when trying again makes sense.",
    ),
    "DeadlineExceeded": (504, "The caller's deadline passed before the answer was ready."),
}
"""Every status that is not 200. 405, 408 and 431 can happen on any path and stand in the components only."""

_RETRY = ("QuotaExceeded", "NotNow")
_ANYWHERE = ("BadRequest", "Unauthenticated")
_OF_READY = ("Unauthenticated", "Forbidden")
_OF_A_MODEL = (*_ANYWHERE, "Forbidden", "NotFound", "NotNow")
_OF_INFER = (
    *_OF_A_MODEL,
    "FeaturesMissing",
    "QuotaExceeded",
    "Internal",
    "NotOffered",
    "DeadlineExceeded",
)
_OF_CONTROL = (*_OF_A_MODEL, "Internal", "NotOffered")


def document(version: str, *, with_rollouts: bool = False) -> dict[str, Any]:
    """The whole document; ``version`` is the server's own. Rollouts are in it where they are served."""
    whole = _document(version)
    if with_rollouts:
        components = whole["components"]
        whole["tags"].append({"name": "rollouts"})
        whole["paths"] |= openapi_rollouts.paths(_errors)
        components["schemas"] |= openapi_rollouts.schemas()
        components["parameters"] |= openapi_rollouts.parameters()
        components["responses"] |= openapi_rollouts.responses()
        components["securitySchemes"] |= openapi_rollouts.security_schemes()
    return whole


def _document(version: str) -> dict[str, Any]:
    return {
        "openapi": VERSION,
        "info": {
            "title": "Headrace, V2 REST",
            "version": version,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            "description": "The Open Inference Protocol (KServe V2) as Triton speaks it, with its extensions for "
            "binary tensors, model configuration, statistics and the model repository.",
        },
        "servers": [
            {
                "url": "http://{host}:{port}",
                "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "8000"}},
            }
        ],
        "security": [{}, {"bearer": []}, {"apiKey": []}],
        "tags": [
            {"name": name} for name in ("server", "models", "infer", "repository", "features")
        ],
        "paths": _paths() | openapi_features.paths(_errors),
        "components": {
            "schemas": schemas() | openapi_features.schemas(),
            "parameters": _parameters() | openapi_features.parameters(),
            "responses": {name: _response(name) for name in RESPONSES},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _paths() -> dict[str, Any]:
    paths = {
        "/v2/health/live": _get("server", "Whether the process answers", "Live"),
        "/v2/health/ready": _get(
            "server",
            "Whether calls are taken now",
            "Ready",
            also={"400": _ok("Not ready, and why", "Ready")},
        ),
        "/v2": _get("server", "Name, version and extensions", "ServerMetadata"),
        "/v2/repository/index": _index(),
        "/v2/repository/models/{model}/load": _control(
            "Load or reload a model and swap it in; answers when every worker serves it",
            "LoadRequest",
        ),
        "/v2/repository/models/{model}/unload": _control(
            "Stop serving a model; answers when its last caller has left", "UnloadRequest"
        ),
        "/v2/models/stats": _get(
            "models", "Counts and durations of every version", "ModelStatistics", _ANYWHERE
        ),
    }
    for end in ("", "/versions/{version}"):
        model = "/v2/models/{model}" + end
        parameters = [_parameter("model")] + ([_parameter("version")] if end else [])
        for path, one in _of_a_model(model).items():
            paths[path] = {"parameters": parameters, **one}
    return paths


def _of_a_model(path: str) -> dict[str, Any]:
    not_ready = {"400": _ok("Not ready, and why", "ModelReady")}
    return {
        path: _get("models", "Versions, inputs and outputs", "ModelMetadata", _OF_A_MODEL),
        f"{path}/ready": _get(
            "models", "Whether it answers now", "ModelReady", _OF_READY, also=not_ready
        ),
        f"{path}/config": _get(
            "models", "Its configuration, as Triton words it", "ModelConfig", _OF_A_MODEL
        ),
        f"{path}/stats": _get("models", "Counts and durations", "ModelStatistics", _OF_A_MODEL),
        f"{path}/infer": {"post": _infer()},
    }


def _get(
    tag: str,
    summary: str,
    answer: str,
    errors: tuple[str, ...] = ("Unauthenticated",),
    *,
    also: dict[str, Any] | None = None,
) -> dict[str, Any]:
    responses = {"200": _ok(summary, answer), **_errors(errors), **(also or {})}
    return {"get": {"tags": [tag], "summary": summary, "responses": responses}}


def _infer() -> dict[str, Any]:
    return {
        "tags": ["infer"],
        "summary": "Ask for a prediction",
        "description": "The body is JSON, or JSON with the bytes of tensors behind it, or with the length 0 the bytes "
        "of the model's only input. It may be compressed with gzip or deflate (Content-Encoding).",
        "parameters": [_parameter(_HEADER)],
        "requestBody": {
            "required": True,
            "content": {
                _JSON: {
                    "schema": ref("InferRequest"),
                    "examples": {"one row": {"value": _example()}},
                },
                _BYTES: {
                    "examples": {
                        "JSON and bytes": {
                            "summary": f"with {_HEADER}: {len(_example_head())}",
                            "value": _example_head() + _EXAMPLE_BYTES,
                        },
                        "bytes alone": {"summary": f"with {_HEADER}: 0", "value": _EXAMPLE_BYTES},
                    }
                },
            },
        },
        "responses": {
            "200": {
                "description": "The answer; bytes when any output was asked for as bytes",
                "headers": {
                    _HEADER: {
                        "description": "Bytes of JSON at the body's beginning, when bytes follow",
                        "schema": {"type": "integer", "minimum": 1},
                    }
                },
                "content": {_JSON: {"schema": ref("InferResponse")}, _BYTES: {}},
            },
            **_errors(_OF_INFER),
        },
    }


_EXAMPLE_BYTES = "AAAABBBBCCCCDDDD"
"""Four floats whose bytes happen to be letters: 12.08, 48.56, 195.26 and 785.07."""


def _example() -> dict[str, Any]:
    data = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 2.5, 0.0, 1.0]}
    return {"id": "42", "inputs": [data], "parameters": {"timeout": 5_000_000}}


def _example_head() -> str:
    size = len(_EXAMPLE_BYTES)
    return (
        '{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32",'
        f'"parameters":{{"binary_data_size":{size}}}}}]}}'
    )


def _index() -> dict[str, Any]:
    answer = listed(ref("IndexEntry"))
    return {
        "post": {
            "tags": ["repository"],
            "summary": "Every model version that is known, and its state",
            "requestBody": _optional_body("IndexRequest", {"ready": True}),
            "responses": {
                "200": {"description": "The index", "content": {_JSON: {"schema": answer}}},
                **_errors((*_ANYWHERE, "NotOffered")),
            },
        }
    }


def _control(summary: str, request: str) -> dict[str, Any]:
    return {
        "parameters": [_parameter("model")],
        "post": {
            "tags": ["repository"],
            "summary": summary,
            "description": 'Only with repository.control = "explicit"; 403 otherwise.',
            "requestBody": _optional_body(request, {}),
            "responses": {"200": {"description": "Done"}, **_errors(_OF_CONTROL)},
        },
    }


def _optional_body(schema: str, example: Schema) -> dict[str, Any]:
    content = {_JSON: {"schema": ref(schema), "examples": {"plain": {"value": example}}}}
    return {"required": False, "content": content}


def _parameter(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/parameters/{name}"}


def _parameters() -> dict[str, Any]:
    name = {**TEXT, "minLength": 1}
    return {
        "model": {
            "name": "model",
            "in": "path",
            "required": True,
            "schema": name,
            "example": EXAMPLE_MODEL,
        },
        "version": {
            "name": "version",
            "in": "path",
            "required": True,
            "schema": name,
            "example": "1",
        },
        _HEADER: {
            "name": _HEADER,
            "in": "header",
            "description": "Bytes of JSON at the body's beginning, when the bytes of tensors follow; 0: no JSON at all",
            "schema": {"type": "integer", "minimum": 0},
        },
    }


def _ok(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": ref(schema)}}}


def _errors(names: tuple[str, ...]) -> dict[str, Any]:
    return {str(RESPONSES[name][0]): {"$ref": f"#/components/responses/{name}"} for name in names}


def _response(name: str) -> dict[str, Any]:
    made: dict[str, Any] = _ok(RESPONSES[name][1], "Error")
    if name in _RETRY:
        made["headers"] = {
            "Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}
        }
    return made


def page(version: str, *, with_rollouts: bool = False) -> str:
    """The paths for a person with a browser: links to the admin port's own, then everything that is described."""
    paths = _paths() | openapi_features.paths(_errors)
    if with_rollouts:
        paths |= openapi_rollouts.paths(_errors)
    rows = [
        f"<tr><td>{method.upper()}</td><td><code>{path}</code></td><td>{one['summary']}"
        f"{' (this port)' if 'servers' in methods else ''}</td></tr>"
        for path, methods in paths.items()
        for method, one in methods.items()
        if method not in ("parameters", "servers")
    ]
    return _PAGE.format(version=version, rows="\n".join(rows))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Headrace</title>
<style>body{{font:16px/1.5 sans-serif;margin:2em auto;max-width:60em}}td{{padding:0 1em 0 0}}</style>
<h1>Headrace {version}</h1>
<p>This port: <a href="/status">status</a>, <a href="/metrics">metrics</a>,
<a href="/v2/health/ready">ready</a>, <a href="/v2/features">features</a>,
<a href="/openapi.json">OpenAPI document</a></p>
<h2>The REST port</h2>
<table>
{rows}
</table>
</html>
"""
