"""Rollouts over REST, at the admin port: look, submit plans, and cause events.

Decides the paths, which status each refusal is, and that a change sent twice under one key is made once. Whether
something may happen is decided elsewhere: who may ask by ``rollout_access``, what may happen by
``rollout.administration``. It must never change anything before it knows who asks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.edge import rollout_requests
from gateway.edge.http_front import error_reply
from gateway.edge.idempotency import (
    Answer,
    Fresh,
    IdempotentAnswers,
    Mismatch,
    Replay,
    UnderWay,
    key_fault,
    request_digest,
)
from gateway.edge.rollout_access import AUTHOR_HEADER, ROOT, Caller, RolloutAccess, header_text
from gateway.edge.rollout_requests import REASON_HEADER, WireError
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.ports import Clock
from rollout.administration import Administration, Changed
from rollout.administration_denials import DenialKind, DeniedError
from rollout.plan import Event
from rollout.ports import CorruptPlanError, StoreAwayError

logger = logging.getLogger("headrace.rollouts")

EVENTS = (
    Event.START,
    Event.PAUSE,
    Event.RESUME,
    Event.STEP,
    Event.PROMOTE,
    Event.ROLLBACK,
    Event.ABORT,
)
"""What people may cause here; all others are the controller's conclusions."""
MAX_CHANGES_AT_ONCE = 32
UNDER_WAY_TIMEOUT_S = 40.0
"""How long a change that is sent again waits for the first one's answer; that may wait itself, for versions to load."""
RETRY_AFTER_S = 1.0

STATUS: Mapping[DenialKind, int] = {
    "unknown_model": 404,
    "faulty": 400,
    "invalid": 400,
    "forbidden": 403,
    "state": 409,
    "not_warm": 409,
    "stale": 412,
    "unconditional": 428,
    "log_unusable": 503,
    "not_recorded": 500,
    "outcome_unknown": 503,
}
_WITH_CURRENT = frozenset({409, 412, 428, 500})
_CONDITIONS = ("if-match", "if-none-match", REASON_HEADER, AUTHOR_HEADER)
"""Headers that make a request another one, if they differ."""


class _Outcome(NamedTuple):
    answer: Answer
    is_final: bool
    """Whether the same request sent again shall be answered the same."""


class RolloutRoutes:
    """Handlers that ask ``administration`` for those whom ``access`` lets pass."""

    def __init__(
        self,
        administration: Administration,
        access: RolloutAccess,
        *,
        clock: Clock = time.monotonic,
        answers: IdempotentAnswers | None = None,
    ) -> None:
        self.access = access
        self._administration = administration
        self._clock = clock
        self._answers = answers or IdempotentAnswers()
        self._ends: dict[tuple[str, str], asyncio.Event] = {}
        self._changes_inside = 0

    def routes(self) -> list[Route]:
        """Every path."""
        model = ROOT + "/{model}"
        return [
            Route(ROOT, self.index, methods=["GET"]),
            # One route for both methods, so that a third one is told of both.
            Route(model, self.plan, methods=["GET", "PUT"]),
            Route(model + "/status", self.status, methods=["GET"]),
            Route(model + "/history", self.history, methods=["GET"]),
            *(
                Route(f"{model}/{event.value}", self._causing(event), methods=["POST"])
                for event in EVENTS
            ),
        ]

    # -- looking ----------------------------------------------------------------------------------

    async def index(self, request: Request) -> Response:
        async def ask() -> Answer:
            return _json({"rollouts": await self._administration.list()})

        return await self._look(request, ask)

    async def plan(self, request: Request) -> Response:
        if request.method == "PUT":
            return await self._propose(request)

        async def ask() -> Answer:
            stored = await self._administration.plan(_model(request))
            return _plan_answer(stored.document, stored.plan.revision)

        return await self._look(request, ask)

    async def status(self, request: Request) -> Response:
        async def ask() -> Answer:
            status = await self._administration.status(_model(request))
            return _json(status, etag=status.revision)

        return await self._look(request, ask)

    async def history(self, request: Request) -> Response:
        async def ask() -> Answer:
            return _json({"history": await self._administration.history(_model(request))})

        return await self._look(request, ask)

    async def _look(self, request: Request, ask: Callable[[], Awaitable[Answer]]) -> Response:
        self.access.may_look(request.scope)
        return _response((await _outcome_of(ask)).answer)

    # -- changing ---------------------------------------------------------------------------------

    async def _propose(self, request: Request) -> Response:
        async def change(caller: Caller, body: bytes) -> Answer:
            conditions = rollout_requests.conditions(request.scope)
            options = rollout_requests.proposal_options(request)
            changed = await self._administration.propose(
                _model(request),
                body,
                author=caller.author,
                reason=options.reason,
                expected_revision=conditions.revision,
                must_be_new=conditions.must_be_new,
                start=options.start,
                dry_run=options.dry_run,
            )
            return _changed_answer(changed)

        return await self._change(request, change)

    def _causing(self, event: Event) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            async def change(caller: Caller, body: bytes) -> Answer:
                rollout_requests.no_options(request)
                conditions = rollout_requests.conditions(request.scope)
                if conditions.must_be_new:
                    raise invalid(
                        "If-None-Match is for a first plan: to change one, send If-Match, or neither"
                    )
                words = rollout_requests.event_words(body)
                changed = await self._administration.change(
                    _model(request),
                    event,
                    step=words.step,
                    author=caller.author,
                    reason=words.reason,
                    expected_revision=conditions.revision,
                )
                return _plan_answer(changed.document, changed.plan.revision)

            return await self._change(request, change)

        return handle

    async def _change(
        self, request: Request, change: Callable[[Caller, bytes], Awaitable[Answer]]
    ) -> Response:
        caller = self.access.may_change(request.scope)
        if self._changes_inside >= MAX_CHANGES_AT_ONCE:
            raise HeadraceError(
                ErrorCode.OVERLOADED,
                f"{MAX_CHANGES_AT_ONCE} changes are being made already: try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        self._changes_inside += 1
        try:
            answer = await self._change_once(request, caller, change)
        except WireError as error:
            answer = _refusal(error.status, error.sentence)
        finally:
            self._changes_inside -= 1
        return _response(answer)

    async def _change_once(
        self,
        request: Request,
        caller: Caller,
        change: Callable[[Caller, bytes], Awaitable[Answer]],
    ) -> Answer:
        """The answer to the change; the very same when its key was answered before."""
        body = await rollout_requests.json_body(request)
        key = header_text(request.scope, "idempotency-key")
        if key is None:
            return (await _outcome_of(lambda: change(caller, body))).answer
        if fault := key_fault(key):
            raise invalid(fault)
        digest = request_digest(_identity(request, body))
        found = await self._first_or_answer(caller, key, digest)
        if isinstance(found, Answer):
            return found
        ended = self._ends[found.ticket] = asyncio.Event()
        try:
            outcome = await _outcome_of(lambda: change(caller, body))
            if outcome.is_final:
                self._answers.finish(found, outcome.answer)
            return outcome.answer
        finally:
            self._answers.abandon_unfinished(found)
            if self._ends.get(found.ticket) is ended:
                del self._ends[found.ticket]
            ended.set()

    async def _first_or_answer(self, caller: Caller, key: str, digest: bytes) -> Fresh | Answer:
        """``Fresh`` when this request is to be made; else what it is answered, perhaps after a wait for the first."""
        try:
            async with asyncio.timeout(UNDER_WAY_TIMEOUT_S):
                while True:
                    match self._answers.begin(caller.key, key, digest, self._clock()):
                        case Fresh() as fresh:
                            return fresh
                        case Replay(answer):
                            again = (*answer.headers, ("idempotency-replayed", "true"))
                            return Answer(answer.status, again, answer.body)
                        case Mismatch():
                            raise WireError(
                                422,
                                "this Idempotency-Key came with another request before: take a new one for each change",
                            )
                        case UnderWay(ticket):
                            await self._ends[ticket].wait()
        except TimeoutError:
            raise HeadraceError(
                ErrorCode.NOT_READY,
                "the same change is still being made: send it again with the same Idempotency-Key",
                retry_after_s=RETRY_AFTER_S,
            ) from None


# -- answers --------------------------------------------------------------------------------------


async def _outcome_of(ask: Callable[[], Awaitable[Answer]]) -> _Outcome:
    """What is answered, refusals included, and whether that is the last word."""
    try:
        return _Outcome(await ask(), is_final=True)
    except DeniedError as denied:
        answer = _denial(denied)
        return _Outcome(answer, answer.status < 500 or denied.kind == "not_recorded")
    except CorruptPlanError as error:
        logger.error("%s", error)
        return _Outcome(_refusal(500, str(error), {"digest": error.digest}), is_final=False)
    except StoreAwayError as error:
        ours = HeadraceError(ErrorCode.NOT_READY, str(error), retry_after_s=RETRY_AFTER_S)
    except HeadraceError as error:
        ours = error
    reply = error_reply(ours)
    headers = tuple(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in reply.headers
    )
    return _Outcome(Answer(reply.status, headers, reply.body), is_final=reply.status < 429)


def _denial(denied: DeniedError) -> Answer:
    status = STATUS[denied.kind]
    more: dict[str, Any] = {}
    if denied.kind == "faulty":
        more["faults"] = list(denied.faults)
    etag: int | None = None
    if status in _WITH_CURRENT:
        current = denied.current
        more["current"] = orjson.Fragment(current.document) if current else None
        etag = current.plan.revision if current else None
    retry_after_s = RETRY_AFTER_S if status == 503 else None
    return _refusal(status, denied.sentence, more, etag=etag, retry_after_s=retry_after_s)


def _refusal(
    status: int,
    sentence: str,
    more: Mapping[str, Any] | None = None,
    *,
    etag: int | None = None,
    retry_after_s: float | None = None,
) -> Answer:
    headers = _headers(etag)
    if retry_after_s is not None:
        headers = (*headers, ("retry-after", f"{retry_after_s:.0f}"))
    return Answer(status, headers, orjson.dumps({"error": sentence, **(more or {})}))


def _changed_answer(changed: Changed) -> Answer:
    if not changed.is_written:
        # The revision is nobody's yet, so there is no ETag that a change could be tied to.
        return Answer(200, (*_headers(None), ("x-headrace-dry-run", "true")), changed.document)
    return _plan_answer(
        changed.document, changed.plan.revision, status=201 if changed.is_new else 200
    )


def _plan_answer(document: bytes, revision: int, status: int = 200) -> Answer:
    return Answer(status, _headers(revision), document)


def _json(value: Any, etag: int | None = None) -> Answer:
    return Answer(200, _headers(etag), msgspec.json.encode(value))


def _headers(etag: int | None) -> tuple[tuple[str, str], ...]:
    # Nothing here may come out of a cache: it is asked to be acted on.
    headers = (("content-type", "application/json"), ("cache-control", "no-store"))
    return headers if etag is None else (*headers, ("etag", f'"{etag}"'))


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status)
    for name, value in answer.headers:
        response.headers[name] = value
    return response


def _model(request: Request) -> str:
    model: str = request.path_params["model"]
    return model


def _identity(request: Request, body: bytes) -> list[bytes]:
    """All that makes a request the one that it is."""
    scope = request.scope
    return [
        request.method.encode(),
        scope["path"].encode("utf-8", "surrogatepass"),
        scope["query_string"],
        *((header_text(scope, name) or "").encode() for name in _CONDITIONS),
        body,
    ]
