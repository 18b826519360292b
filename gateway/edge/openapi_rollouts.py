"""Rollouts in the OpenAPI document: paths of the admin port, and the plans that they take and answer.

Decides how these paths are told. The schemas of bodies are made from the very types that bodies are read into and
written from, so that they cannot promise anything else. Nothing here is shown by a server that knows no rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gateway.edge.idempotency import KEPT_S, MAX_KEY_CHARACTERS
from gateway.edge.openapi_schemas import TEXT, Schema, listed, record, ref
from gateway.edge.rollout_access import ROOT
from gateway.edge.rollout_requests import MAX_BODY_BYTES, EventWords
from gateway.edge.rollout_routes import EVENTS
from rollout.administration_status import Status, Summary
from rollout.plan import Event, HistoryEntry, Plan, Proposal

_JSON = "application/json"
_PREFIX = "Rollout"

RESPONSES: dict[str, tuple[int, str]] = {
    "RolloutFaults": (400, "The request or the plan cannot be taken: all that is wrong with it."),
    "RolloutNotNow": (
        409,
        (
            "The plan's state does not allow it, or a version that would get weight is not warm everywhere. The plan "
            "as it is comes along."
        ),
    ),
    "RolloutChanged": (
        412,
        (
            "The plan is not the one that the change is meant for: somebody was first. The plan as it is comes along, "
            "with its ETag. Nothing was changed."
        ),
    ),
    "RolloutNoJson": (415, "The body must be JSON, and not compressed."),
    "RolloutOtherRequest": (422, "This Idempotency-Key came with another request before."),
    "RolloutUnconditional": (428, "There is a plan: If-Match must say which revision is replaced."),
    "RolloutBroken": (
        500,
        (
            "What is stored is no plan, and digest says of which bytes; or a change is in force that could not be "
            "recorded in the audit log; or the server failed."
        ),
    ),
}
"""Every status that no other path has, or has with less in it."""

_SUMMARIES: dict[Event, str] = {
    Event.START: "Begin: with the copies, or with the first step",
    Event.PAUSE: "Stop where it is; the weights stay",
    Event.RESUME: "Go on after a pause or a hold",
    Event.STEP: "Go to a step by hand",
    Event.PROMOTE: "Give the candidate all traffic; takes an approver",
    Event.ROLLBACK: "Give the champion all traffic back, at once",
    Event.ABORT: "Give it up; the champion gets all traffic",
}

_ADMIN_SERVER = {
    "url": "http://{host}:{port}",
    "description": "The admin port.",
    "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "8002"}},
}

_SECURITY: list[dict[str, list[str]]] = [{}, {"operator": []}]

Errors = Callable[[tuple[str, ...]], dict[str, Any]]


def paths(errors: Errors) -> dict[str, Any]:
    """``errors``: from names of common responses to references to them."""
    model = ROOT + "/{model}"
    of_model = {"servers": [_ADMIN_SERVER], "parameters": [_parameter("model")]}
    seen = errors(("Unauthenticated", "Forbidden", "NotFound", "NotNow")) | _refusals(
        ("RolloutBroken",)
    )
    return {
        ROOT: {
            "servers": [_ADMIN_SERVER],
            "get": _get(
                "A line of each model that has a rollout",
                "RolloutList",
                errors(("Unauthenticated", "Forbidden", "NotNow")),
            ),
        },
        model: {
            **of_model,
            "get": _get("The plan", "RolloutPlan", seen, with_etag=True),
            "put": _propose(_change_refusals(errors)),
        },
        f"{model}/status": {
            **of_model,
            "get": _get(
                "The plan, its counters, and what the controller makes of them",
                "RolloutStatus",
                seen,
                with_etag=True,
            ),
        },
        f"{model}/history": {
            **of_model,
            "get": _get("The last changes, the newest last", "RolloutHistory", seen),
        },
        **{
            f"{model}/{event.value}": {**of_model, "post": _cause(event, errors)}
            for event in EVENTS
        },
    }


def _change_refusals(errors: Errors) -> dict[str, Any]:
    common = errors(("Unauthenticated", "Forbidden", "NotFound", "QuotaExceeded", "NotNow"))
    return common | _refusals(RESPONSES)


def _propose(refusals: dict[str, Any]) -> dict[str, Any]:
    return {
        "tags": ["rollouts"],
        "security": _SECURITY,
        "summary": "Submit a plan: the model's first, or in the place of the one that If-Match names",
        "description": "Everything that is wrong with it is answered at once. It is a draft that moves nothing until "
        "it is started. Changes take a token of an operator where tokens are asked for, and come from this machine "
        f"only where none are. At most {MAX_BODY_BYTES} bytes.",
        "parameters": [
            *(_parameter(name) for name in ("start", "dry_run", "reason")),
            *(_parameter(name) for name in ("If-Match", "If-None-Match", "x-headrace-reason")),
            *(_parameter(name) for name in ("Idempotency-Key", "x-headrace-author")),
        ],
        "requestBody": _body("RolloutProposal", {"two steps": _EXAMPLE}),
        "responses": {
            "200": _plan_answer("The new plan, or the one that a dry run would have made"),
            "201": _plan_answer("The model's first plan"),
            **refusals,
        },
    }


def _cause(event: Event, errors: Errors) -> dict[str, Any]:
    words: dict[str, Any] = {"reason": "flights of the new carrier look right"}
    if event is Event.STEP:
        words["step"] = 2
    refusals = _change_refusals(errors)
    del refusals["428"]  # only a whole plan is never replaced unseen
    return {
        "tags": ["rollouts"],
        "security": _SECURITY,
        "summary": _SUMMARIES[event],
        "parameters": [
            _parameter(name) for name in ("If-Match", "Idempotency-Key", "x-headrace-author")
        ],
        "requestBody": {
            **_body("RolloutEventWords", {"with a reason": words}),
            "required": event is Event.STEP,
        },
        "responses": {"200": _plan_answer("The new plan"), **refusals},
    }


_EXAMPLE: dict[str, Any] = {
    "champion": "1",
    "candidate": "2",
    "sticky": {"from": "header:x-user", "salt": "fraud 2"},
    "steps": [
        {"percent": 1, "min_time_s": 300, "min_samples": 1000},
        {"percent": 25, "min_time_s": 600, "min_samples": 10_000},
    ],
    "guardrails": [{"kind": "errors"}, {"kind": "slow"}],
}


# ---- components --------------------------------------------------------------------------------------------


def parameters() -> dict[str, Any]:
    """``components.parameters``; the model is the common one."""
    text: Schema = {**TEXT, "maxLength": 500}
    truth: Schema = {"type": "boolean", "default": False}
    key: Schema = {**TEXT, "pattern": f"^[!-~]{{1,{MAX_KEY_CHARACTERS}}}$"}
    return {
        "start": _asked("start", "query", "Start it at once, if it can be.", truth),
        "dry_run": _asked("dry_run", "query", "Check everything, write nothing.", truth),
        "reason": _asked("reason", "query", "Why; or in the header x-headrace-reason.", text),
        "x-headrace-reason": _asked("x-headrace-reason", "header", "Why, in UTF-8.", text),
        "If-Match": _asked(
            "If-Match",
            "header",
            "The revision that the change is meant for, as the plan's ETag has it. With another one in force "
            "nothing is changed.",
            {**TEXT, "pattern": '^"[1-9][0-9]{0,15}"$'},
        ),
        "If-None-Match": _asked(
            "If-None-Match", "header", "The model has no plan yet.", {**TEXT, "const": "*"}
        ),
        "Idempotency-Key": _asked(
            "Idempotency-Key",
            "header",
            f"One for each change: the same request sent again within {KEPT_S:g} s is answered the same, and happens "
            "once.",
            key,
        ),
        "x-headrace-author": _asked(
            "x-headrace-author",
            "header",
            "Who asks, where no tokens are asked for.",
            {**TEXT, "minLength": 1, "maxLength": 64},
        ),
    }


def security_schemes() -> dict[str, Any]:
    """``components.securitySchemes``: API keys are for the data ports."""
    words = "An operator's token, as headrace token create prints it."
    return {"operator": {"type": "http", "scheme": "bearer", "description": words}}


def responses() -> dict[str, Any]:
    """``components.responses``."""
    return {
        name: {"description": words, "content": {_JSON: {"schema": ref("RolloutError")}}}
        for name, (_, words) in RESPONSES.items()
    }


def schemas() -> dict[str, Schema]:
    """``components.schemas``, of the types themselves."""
    kinds = (Summary, Plan, Proposal, Status, HistoryEntry, EventWords)
    _, found = msgspec.json.schema_components(
        kinds, ref_template=f"#/components/schemas/{_PREFIX}{{name}}"
    )
    plain: dict[str, Schema] = msgspec.json.decode(
        msgspec.json.encode(found)
    )  # defaults are tuples
    made = {_PREFIX + name: schema for name, schema in plain.items()}
    made["RolloutStatus"]["properties"]["plan"] = ref("RolloutPlan")
    proposal = made["RolloutProposal"]
    proposal["required"] = [name for name in proposal["required"] if name != "model"]
    proposal["properties"]["model"]["description"] = "The path's; it may be left out."
    return {
        **made,
        "RolloutList": record("rollouts", rollouts=listed(ref("RolloutSummary"))),
        "RolloutHistory": record("history", history=listed(ref("RolloutHistoryEntry"))),
        "RolloutError": record(
            "error",
            error={**TEXT, "minLength": 1},
            faults={**listed(TEXT), "description": "All that is wrong with a plan."},
            current={
                "anyOf": [ref("RolloutPlan"), {"type": "null"}],
                "description": "The plan that is in force; null where there is none.",
            },
            digest={**TEXT, "description": "SHA-256 of what is stored and is no plan."},
        ),
    }


def _asked(name: str, place: str, description: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": place, "description": description, "schema": schema}


def _parameter(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/parameters/{name}"}


def _refusals(names: Iterable[str]) -> dict[str, Any]:
    return {str(RESPONSES[name][0]): {"$ref": f"#/components/responses/{name}"} for name in names}


def _get(
    summary: str, schema: str, refusals: dict[str, Any], *, with_etag: bool = False
) -> dict[str, Any]:
    answer = _plan_answer(summary, schema)
    if not with_etag:
        del answer["headers"]
    return {
        "tags": ["rollouts"],
        "security": _SECURITY,
        "summary": summary,
        "responses": {"200": answer, **refusals},
    }


def _plan_answer(description: str, schema: str = "RolloutPlan") -> dict[str, Any]:
    return {
        "description": description,
        "headers": {
            "ETag": {
                "description": "The plan's revision, for If-Match; not after a dry run.",
                "schema": TEXT,
            }
        },
        "content": {_JSON: {"schema": ref(schema)}},
    }


def _body(schema: str, examples: dict[str, Any]) -> dict[str, Any]:
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"required": True, "content": {_JSON: {"schema": ref(schema), "examples": shown}}}
