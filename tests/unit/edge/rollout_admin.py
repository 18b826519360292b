"""The admin port's application with rollouts on a store in memory, and how the tests ask it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs

from foundation.audit import AuditLog
from foundation.audit_record import Line
from foundation.audit_verifying import last_lines, verify
from foundation.tokens import Role, add_token, new_token
from gateway.edge import admin, openapi, openapi_rollouts
from gateway.edge.rollout_access import RolloutAccess
from gateway.edge.rollout_routes import RolloutRoutes
from gateway.errors import ErrorCode, HeadraceError
from rollout.administration import Administration
from rollout.checking import Facts
from rollout.memory_rollouts import MemoryRollouts
from rollout.plan import Plan
from rollout.ports import Conflict, ModelBeat, StoreAwayError, WorkerBeat, Written
from tests.support import loops

NOW_S = 1_800_000_000.0
LOCAL, REMOTE = ("127.0.0.1", 5000), ("192.0.2.7", 5000)
PATH = "/v2/rollouts/fraud"
PROPOSAL: dict[str, Any] = openapi_rollouts._EXAMPLE
WHY = {"reason": "because"}
DOCUMENT = openapi.document("1.2.3", with_rollouts=True)


class Store(MemoryRollouts):
    """Can hold a write back, or lose its answer."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.writes = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = False

    async def write(self, plan: Plan, expected_revision: int, fence: int) -> Written | Conflict:
        self.writes += 1
        await self.gate.wait()
        if self.fails:
            self.go_away()
            raise StoreAwayError("the connection was lost")
        return await super().write(plan, expected_revision, fence)


class World:
    """The admin application of an instance with rollouts; nothing else of it is asked."""

    def __init__(self, folder: Path, *, tokens: bool, most: int) -> None:
        self.file = folder / "audit.jsonl"
        self.store = Store()
        self.tokens: dict[str, str] = {}
        self.now = 0.0
        tokens_file = folder / "tokens.toml" if tokens else None
        for role in Role if tokens_file else ():
            token, self.tokens[role.value] = new_token(role.value, role, now=datetime.now(UTC))
            add_token(tokens_file, token)
        self.administration = Administration(
            self.store, AuditLog(self.file), self._facts, lambda: NOW_S
        )
        access = RolloutAccess(tokens_file, max_changes_per_min=most, clock=lambda: self.now)
        routes = RolloutRoutes(self.administration, access, clock=lambda: self.now)
        instance: Any = None
        self.app = admin.build(instance, "1.2.3", routes)

    async def _facts(self, model: str) -> Facts:
        if model == "nowhere":
            raise HeadraceError(ErrorCode.NOT_FOUND, "unknown model 'nowhere'")
        return Facts(versions=frozenset({"1", "2", "3"}))

    async def warm(self, *versions: str) -> None:
        beat = ModelBeat(model="fraud", revision=1, acting_s=1.0, warm=frozenset(versions))
        await self.store.beat(WorkerBeat(worker="a", at_s=NOW_S, models=(beat,)))

    async def ask(
        self,
        method: str,
        path: str = PATH,
        body: Any = None,
        *,
        client: tuple[str, int] = LOCAL,
        role: str = "",
        **headers: str,
    ) -> httpx.Response:
        sent = {name.replace("_", "-").encode(): text.encode() for name, text in headers.items()}
        if role:
            sent[b"authorization"] = f"Bearer {self.tokens[role]}".encode()
        content = body
        if body is not None and not isinstance(body, bytes) and not hasattr(body, "__aiter__"):
            content = json.dumps(body).encode()
            sent.setdefault(b"content-type", b"application/json")
        transport = httpx.ASGITransport(app=self.app, client=client)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8002"
        ) as asking:
            return await asking.request(method, path, content=content, headers=sent)

    async def submit(self, **headers: str) -> httpx.Response:
        return await self.ask("PUT", f"{PATH}?reason=new&start=true", PROPOSAL, **headers)

    def actions(self) -> list[str]:
        if not self.file.exists():
            return []
        assert verify(self.file).is_sound
        lines = [one.content for one in last_lines(self.file, 1000)]
        return [line.record.action for line in lines if isinstance(line, Line)]


def in_world(
    folder: Path,
    test: Callable[[World], Awaitable[None]],
    *,
    tokens: bool = False,
    most: int = 1000,
) -> None:
    async def whole() -> None:
        world = World(folder, tokens=tokens, most=most)
        await world.warm("1", "2", "3")
        await test(world)

    loops.run(whole)


def error(response: httpx.Response) -> str:
    """The sentence of a refusal, which the document promises for its status and path."""
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    operation = operation_of(response)
    status = str(response.status_code)
    if response.status_code not in {405, 408}:
        assert status in operation["responses"], status
    RolloutError.validate(found)
    sentence: str = found["error"]
    return sentence


def operation_of(response: httpx.Response) -> dict[str, Any]:
    asked = response.request
    for path, methods in DOCUMENT["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), asked.url.path):
            found: dict[str, Any] = methods.get(asked.method.lower(), {})
            return found
    raise AssertionError(asked.url)


def validator(name: str) -> Any:
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    )


RolloutError = validator("RolloutError")
