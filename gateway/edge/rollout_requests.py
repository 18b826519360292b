"""What a request about a rollout says besides its path: conditions, parameters, reason and body.

Decides what is taken and what is refused, strictly: a condition or a parameter that is not understood must never be
passed over, because the change would happen without it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import ClientDisconnect, Request

from gateway.edge.rollout_access import header_text
from gateway.errors import ErrorCode, HeadraceError, invalid
from rollout.plan import MAX_DOCUMENT_BYTES

MAX_BODY_BYTES = MAX_DOCUMENT_BYTES
BODY_TIMEOUT_S = 10.0
REASON_HEADER = "x-headrace-reason"

_ETAG = re.compile(r'"([1-9][0-9]{0,15})"', re.ASCII)
_JSON_TYPE = re.compile(r'application/json(\s*;\s*charset="?utf-8"?)?', re.ASCII | re.IGNORECASE)


class WireError(Exception):
    """A refusal with a status that no other path of this port has."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Conditions(msgspec.Struct, frozen=True):
    """What has to be true of the plan that is there."""

    revision: int | None = None
    """It is this one."""
    must_be_new: bool = False
    """There is none."""


class ProposalOptions(msgspec.Struct, frozen=True):
    """How a plan is to be taken."""

    start: bool
    dry_run: bool
    reason: str


class EventWords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a change by event."""

    reason: str = ""
    step: Annotated[int, Meta(ge=-(2**31), lt=2**31)] | None = None


def conditions(scope: Any) -> Conditions:
    """Raises INVALID_ARGUMENT for what is no revision, and for conditions that exclude each other."""
    expected, unwanted = header_text(scope, "if-match"), header_text(scope, "if-none-match")
    if expected is not None and unwanted is not None:
        raise invalid(
            "If-Match wants a plan and If-None-Match wants none: send If-Match to change one, "
            "If-None-Match: * to submit the first"
        )
    if unwanted is not None and unwanted != "*":
        raise invalid(
            "If-None-Match can only be *, which asks that there is no plan; to change one, "
            'send If-Match with its ETag, such as "7"'
        )
    return Conditions(
        None if expected is None else _revision(expected), must_be_new=unwanted is not None
    )


def _revision(etag: str) -> int:
    found = _ETAG.fullmatch(etag)
    if found is None:
        raise invalid(
            "If-Match must be one revision in double quotes, as the plan's ETag has it, "
            f'such as "7"; not {etag[:64]!r}'
        )
    return int(found[1])


def proposal_options(request: Request) -> ProposalOptions:
    """Of a plan that is submitted."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in {"start", "dry_run", "reason"}:
            raise invalid(
                f"there is no parameter {name[:64]!r}: start, dry_run and reason are known"
            )
        if name in found:
            raise invalid(f"the parameter {name} is there twice: give it once")
        found[name] = value
    reason = header_text(request.scope, REASON_HEADER)
    if reason is not None and found.get("reason", reason) != reason:
        raise invalid(f"the parameter reason and {REASON_HEADER} differ: give one of them")
    return ProposalOptions(
        start=_flag("start", found),
        dry_run=_flag("dry_run", found),
        reason=found.get("reason", reason or ""),
    )


def _flag(name: str, found: dict[str, str]) -> bool:
    value = found.get(name, "false")
    if value not in {"true", "false"}:
        raise invalid(f"the parameter {name} must be true or false, not {value[:64]!r}")
    return value == "true"


def no_options(request: Request) -> None:
    """A change by event has all in its body; nobody may believe that it was a dry run."""
    if request.url.query:
        raise invalid("this takes no parameters: reason and step belong into the body")


def event_words(body: bytes) -> EventWords:
    """Raises INVALID_ARGUMENT; nothing at all says nothing."""
    if not body.strip():
        return EventWords()
    try:
        return msgspec.json.decode(body, type=EventWords)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(
            f'the body must be a JSON object with reason and, for a step, step, such as {{"reason": "…"}}: {error}'
        ) from None


async def json_body(request: Request) -> bytes:
    """All of a body of JSON, or why it is not taken."""
    kind = header_text(request.scope, "content-type")
    if kind is not None and not _JSON_TYPE.fullmatch(kind):
        raise WireError(
            415, f"the body must be JSON: send content-type: application/json, not {kind[:64]!r}"
        )
    coding = header_text(request.scope, "content-encoding")
    if coding not in {None, "", "identity"}:
        raise WireError(415, "this body may not be compressed: leave content-encoding out")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise WireError(
            408, f"the body did not arrive within {BODY_TIMEOUT_S:g} s: send it again"
        ) from None
    except ClientDisconnect:
        raise HeadraceError(ErrorCode.CANCELLED, "the caller went away") from None
    return bytes(body)


def _too_large() -> HeadraceError:
    return HeadraceError(
        ErrorCode.TOO_LARGE, f"the body has more than {MAX_BODY_BYTES} bytes: shorten it"
    )
