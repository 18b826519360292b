"""Features in the OpenAPI document: pushing rows at the data port, definitions and values at the admin port.

Decides how these paths and bodies are told. Paths of the admin port name it as their own server.
"""

from __future__ import annotations

from typing import Any

from gateway.edge.openapi_schemas import TEXT, WHOLE, Schema, listed, or_null, record, ref

_JSON = "application/json"
_NUMBER: Schema = {"type": "number"}
_ANY_LIST: Schema = {"type": "array", "items": {}}

DATA_PATHS = ("/v2/features/{view}/push",)
ADMIN_PATHS = (
    "/v2/features",
    "/v2/features/{service}/lookup",
    "/v2/features/views/{view}/lookup",
)

_ADMIN_SERVER = {
    "url": "http://{host}:{port}",
    "description": "The admin port.",
    "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "8002"}},
}


def paths(errors: Any) -> dict[str, Any]:
    """``errors``: from names of responses to references to them."""
    asked = ("BadRequest", "Forbidden", "NotFound", "NotOffered", "NotNow", "Internal")
    lookup = errors(asked)
    push, index, service, view = (*DATA_PATHS, *ADMIN_PATHS)
    pushed = errors(
        (
            "BadRequest",
            "Unauthenticated",
            "Forbidden",
            "NotFound",
            "NotOffered",
            "NotNow",
            "Internal",
        )
    )
    return {
        push: {"parameters": [_named("view")], "post": _push(pushed)},
        index: {
            "servers": [_ADMIN_SERVER],
            "get": {
                "tags": ["features"],
                "summary": "What is defined, in short",
                "responses": {
                    "200": _answer("The manifest in short", "FeatureDefinitions"),
                    **errors(("NotOffered", "NotNow")),
                },
            },
        },
        service: {
            "servers": [_ADMIN_SERVER],
            "parameters": [_named("service")],
            "post": _lookup("The features of a service as a prediction would get them now", lookup),
        },
        view: {
            "servers": [_ADMIN_SERVER],
            "parameters": [_named("view")],
            "post": _lookup("All columns of a view as a prediction would get them now", lookup),
        },
    }


def parameters() -> dict[str, Any]:
    """``components.parameters``."""
    return {
        name: {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {**TEXT, "minLength": 1},
            "example": example,
        }
        for name, example in (("view", "airport_weather"), ("service", "flights"))
    }


def _named(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/parameters/{name}"}


def _push(errors: dict[str, Any]) -> dict[str, Any]:
    moment = "2026-11-23T15:00:00Z"
    row = {"origin": "JFK", "temp": 1.5, "sky": None, "event_time": moment}
    return {
        "tags": ["features"],
        "summary": "Write rows of a feature view; all are checked before any is written",
        "description": "Only with features.push = true, and where API keys are asked for, with a key that was granted "
        "the view; 403 otherwise. Pushing the same rows again changes nothing. It may be compressed with gzip or "
        "deflate (Content-Encoding).",
        "requestBody": {
            "required": True,
            "content": {
                _JSON: {
                    "schema": ref("FeaturePush"),
                    "examples": {"one row": {"value": {"rows": [row]}}},
                }
            },
        },
        "responses": {"200": _answer("What became of the rows", "FeaturePushed"), **errors},
    }


def _lookup(summary: str, errors: dict[str, Any]) -> dict[str, Any]:
    example = {"keys": {"origin": ["JFK", "LGA"]}, "inputs": {"distance": [762.0, 214.0]}}
    return {
        "tags": ["features"],
        "summary": summary,
        "description": "From this machine only. At most 1000 rows. A default stands where a prediction would have it.",
        "requestBody": {
            "required": True,
            "content": {
                _JSON: {
                    "schema": ref("FeatureQuestion"),
                    "examples": {"two airports": {"value": example}},
                }
            },
        },
        "responses": {"200": _answer("Values, column by column", "FeatureValues"), **errors},
    }


def _answer(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": ref(schema)}}}


def schemas() -> dict[str, Schema]:
    """``components.schemas``."""
    return _pushes() | _questions() | _definitions()


def _pushes() -> dict[str, Schema]:
    counts = ("created", "newer", "rewritten", "older", "expired", "duplicates")
    return {
        "FeaturePush": {
            **record(
                "rows",
                rows={
                    **listed({"type": "object"}),
                    "description": "One object per row: the entity's keys, every column of the view (null where there "
                    "is no value), and event_time, as ISO 8601 or in microseconds since 1970; without it a row is of "
                    "this moment.",
                },
            ),
            "additionalProperties": False,
        },
        "FeaturePushed": {
            **record(" ".join(counts), **dict.fromkeys(counts, WHOLE)),
            "description": "created, newer and rewritten were written (the latter over a row of the same event time); "
            "older: the store has a newer row; expired: past the view's retention; duplicates: a newer row of the same "
            "entity was in the same push. The sum is the number of rows.",
        },
    }


def _questions() -> dict[str, Schema]:
    columns = {"type": "object", "additionalProperties": _ANY_LIST}
    times = listed(or_null(TEXT))
    refused = record("row why", row=WHOLE, why=TEXT)
    return {
        "FeatureQuestion": {
            **record(
                "",
                keys={**columns, "description": "Values of each join key, one per row."},
                inputs={
                    **columns,
                    "description": "Values of request-time inputs, for on-demand features.",
                },
            ),
            "additionalProperties": False,
        },
        "FeatureValues": record(
            "project revision digest rows features views",
            project=TEXT,
            revision=WHOLE,
            digest=TEXT,
            service=TEXT,
            view=TEXT,
            rows=WHOLE,
            features=listed(
                record(
                    "name kind type values",
                    name=TEXT,
                    kind={"type": "string", "enum": ["view", "input", "key", "on_demand"]},
                    type=TEXT,
                    values={
                        **_ANY_LIST,
                        "description": "As a model gets them; null for NaN, and where there is no prediction.",
                    },
                    statuses=listed(TEXT),
                    why={**TEXT, "description": "Why there are no values."},
                )
            ),
            views=listed(
                record(
                    "view statuses event_times ages_s old_copies refused",
                    view=TEXT,
                    statuses=listed(TEXT),
                    event_times=times,
                    ages_s=listed(or_null(_NUMBER)),
                    old_copies={
                        **listed(WHOLE),
                        "description": "Rows out of copies kept past their time.",
                    },
                    refused={
                        **listed(refused),
                        "description": "Rows without a prediction, and why.",
                    },
                )
            ),
        ),
    }


def _definitions() -> dict[str, Schema]:
    texts = {"type": "object", "additionalProperties": TEXT}
    return {
        "FeatureDefinitions": record(
            "project revision digest entities views inputs on_demand services",
            project=TEXT,
            revision=WHOLE,
            digest=TEXT,
            entities={"type": "object", "additionalProperties": texts},
            views=listed(
                record(
                    "name entity keys columns",
                    name=TEXT,
                    entity=TEXT,
                    keys=texts,
                    columns=texts,
                    max_age_s=or_null(_NUMBER),
                    retention_s=or_null(_NUMBER),
                    cache_ttl_s=_NUMBER,
                    stale_if_error_s=_NUMBER,
                    owner=TEXT,
                )
            ),
            inputs=texts,
            on_demand=texts,
            services=listed(record("name keys inputs features", name=TEXT, keys=texts)),
        ),
    }
