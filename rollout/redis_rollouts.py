"""The port over a Redis or Valkey server: one script or one command for each call, and a limit on each wait.

Decides how calls become commands and when a connection counts as lost. What a script does is in
``rollout.store_scripts``. It must never ask twice by itself, nor keep anything that it has read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from redis.asyncio.client import PubSub

from rollout.plan import FORMAT, MAX_DOCUMENT_BYTES, Plan
from rollout.ports import (
    BEAT_KEPT_MS,
    CALL_TIMEOUT_S,
    LEASE_MS,
    MAX_WORKERS,
    REPORTS_KEPT_S,
    Conflict,
    Counters,
    StoreAwayError,
    Stored,
    WorkerBeat,
    Written,
    fence_floor,
)
from rollout.shared_documents import (
    beat_document,
    corrupt_plan,
    plan_document,
    read_beats,
    read_report,
    report_document,
    stored_plan,
    too_many_workers,
)
from rollout.store_client import FAILURES, Client, open_client, sentence
from rollout.store_scripts import (
    BEAT,
    BEATS,
    BEATS_KEY,
    CHANGED_CHANNEL,
    DROP_LEASE,
    KEEP_LEASE,
    LEASE_FENCE_KEY,
    LEASE_KEY,
    MODELS_KEY,
    REPORT,
    TAKE_LEASE,
    WRITE_PLAN,
    evidence_key,
    fence_key,
    plan_key,
)

AnswerT = TypeVar("AnswerT")


class RedisRollouts:
    """``rollout.ports.Rollouts``. Connects when first asked, and again whenever the connection is gone.

    ``url``: the address, or who tells it before each call; a private store's may change. ``timeout_s``: of each call,
    connecting included. ``lease_ms``: how long a lease lasts that is not kept. To be used on one event loop.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._lease_ms = lease_ms
        self._client: Client | None = None
        self._opened_url = ""
        self._name = "the store"

    async def models(self) -> list[str]:
        found = await self._ask(lambda client: _as(client.smembers(MODELS_KEY)))
        return sorted(one.decode(errors="replace") for one in found)

    async def plan(self, model: str) -> Stored | None:
        # One byte more than a plan may have: a longer one is seen to be too long, and not read.
        document = await self._ask(
            lambda client: _as(client.getrange(plan_key(model), 0, MAX_DOCUMENT_BYTES))
        )
        return stored_plan(model, document) if document else None

    async def write(self, plan: Plan, expected_revision: int, fence: int) -> Written | Conflict:
        model = plan.model
        document = plan_document(plan, expected_revision, fence)
        # First, and apart, as it lies elsewhere in the store: a model without a plan does no harm, and a plan that
        # nobody looks for would.
        await self._ask(lambda client: _as(client.sadd(MODELS_KEY, model)))
        outcome, found, newest = await self._script(
            WRITE_PLAN,
            [plan_key(model), fence_key(model)],
            [
                expected_revision,
                fence,
                document,
                CHANGED_CHANNEL,
                model,
                MAX_DOCUMENT_BYTES,
                FORMAT,
            ],
        )
        if outcome == b"written":
            return Written()
        stored = stored_plan(model, found) if found else None
        if outcome == b"fenced":
            return Conflict(stored, int(newest))
        if outcome == b"corrupt":
            raise corrupt_plan(model, "the store cannot read its revision", found)
        return Conflict(stored)

    async def report(
        self, worker: str, model: str, began_revision: int, counters: Counters
    ) -> None:
        document = report_document(counters)
        arguments = [worker, document, REPORTS_KEPT_S, MAX_WORKERS]
        if not await self._script(REPORT, [evidence_key(model, began_revision)], arguments):
            raise StoreAwayError(too_many_workers(self._name))

    async def reports(self, model: str, began_revision: int) -> dict[str, Counters]:
        key = evidence_key(model, began_revision)
        found = await self._ask(lambda client: _as(client.hgetall(key)))
        return {
            worker.decode(errors="replace"): read_report(document)
            for worker, document in found.items()
        }

    async def beat(self, beat: WorkerBeat) -> None:
        arguments = [beat.worker, beat_document(beat), MAX_WORKERS]
        if not await self._script(BEAT, [BEATS_KEY], arguments):
            raise StoreAwayError(too_many_workers(self._name))

    async def beats(self) -> list[WorkerBeat]:
        return read_beats(await self._script(BEATS, [BEATS_KEY], [BEAT_KEPT_MS]))

    async def take_lease(self, owner: str, now_s: float) -> int | None:
        arguments = [owner, self._lease_ms, fence_floor(now_s)]
        fence = await self._script(TAKE_LEASE, [LEASE_KEY, LEASE_FENCE_KEY], arguments)
        return int(fence) or None

    async def keep_lease(self, owner: str) -> bool:
        return bool(await self._script(KEEP_LEASE, [LEASE_KEY], [owner, self._lease_ms]))

    async def drop_lease(self, owner: str) -> None:
        await self._script(DROP_LEASE, [LEASE_KEY], [owner])

    async def changes(self) -> AsyncGenerator[str, None]:
        """Raises ``StoreAwayError`` when it cannot begin, and ends when the connection is lost later."""
        subscribed = await self._ask(self._subscribed)
        try:
            for model in await self.models():
                yield model
            while True:
                try:
                    changed = await self._next_change(subscribed)
                except FAILURES:
                    return
                if changed is not None:
                    yield changed
        finally:
            await _let_go(subscribed)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(*FAILURES):
                await client.aclose()

    # -- inside -----------------------------------------------------------------------------------

    async def _script(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        # The whole script each time: it is short, and a store that was started again does not know it by its digest.
        return await self._ask(
            lambda client: _as(client.eval(script, len(keys), *keys, *arguments))
        )

    async def _ask(self, question: Callable[[Client], Awaitable[AnswerT]]) -> AnswerT:
        """The answer. Raises ``StoreAwayError``, whatever went wrong."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await question(await self._opened())
        except FAILURES as error:
            raise StoreAwayError(sentence(error, self._name)) from None

    async def _opened(self) -> Client:
        url = self._url if isinstance(self._url, str) else self._url()
        if self._client is None or url != self._opened_url:
            await self.close()
            opened, self._name = open_client(url, self._timeout_s)
            self._client, self._opened_url = opened, url
            return opened
        return self._client

    async def _subscribed(self, client: Client) -> PubSub:
        """On a connection of its own; the store has said that it stands."""
        listening = client.pubsub()
        try:
            await listening.subscribe(CHANGED_CHANNEL)
            while (said := await listening.get_message(timeout=self._timeout_s)) is None:
                pass  # the caller's time limit ends it
        except BaseException:
            await _let_go(listening)
            raise
        assert said["type"] == "subscribe", said
        return listening

    async def _next_change(self, listening: PubSub) -> str | None:
        """A model's name, or None after a quiet while in which the store was still there. Raises ``FAILURES``."""
        said = await _message(listening, self._timeout_s)
        if said is None:
            async with asyncio.timeout(self._timeout_s):
                await listening.ping()
                while said is None:
                    said = await _message(listening, self._timeout_s)
        if said["type"] != "message":
            return None
        return cast("bytes", said["data"]).decode(errors="replace")


async def _message(listening: PubSub, timeout_s: float) -> dict[str, Any] | None:
    """The next one, or None. Raises when the connection is gone: over a new one, what was between would be missed."""
    connection = listening.connection
    if connection is None or not connection.is_connected:
        raise ConnectionResetError("the connection is gone")
    return cast("dict[str, Any] | None", await listening.get_message(timeout=timeout_s))


async def _let_go(listening: PubSub) -> None:
    with suppress(*FAILURES):
        await listening.aclose()  # type: ignore[no-untyped-call]


def _as(answer: Any) -> Awaitable[Any]:
    """redis-py's annotations hold for its blocking and its asyncio client at once."""
    return cast("Awaitable[Any]", answer)
