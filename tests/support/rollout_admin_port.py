"""The rollouts of an admin port, over a store in memory, served over a real socket in a thread of the test.

The routes, the checks and the audit log are those of the gateway. What stands in for the rest of it: heartbeats that
say what is warm, a list of versions for the repository, and ``fire`` in the place of the controller.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from foundation.audit import AuditLog
from gateway.edge.http_app import on_headrace_error, on_http_exception
from gateway.edge.http_repository import RepositoryRoutes
from gateway.edge.rollout_access import RolloutAccess, RolloutWall
from gateway.edge.rollout_routes import RolloutRoutes
from gateway.errors import HeadraceError
from gateway.messages import ModelStatus
from gateway.ports import RepositoryControl
from rollout.administration import Administration
from rollout.checking import Facts
from rollout.controller import apply
from rollout.memory_rollouts import MemoryRollouts
from rollout.plan import Event, Plan
from rollout.ports import ModelBeat, WorkerBeat, Written
from rollout.transitions import Author, Change

WAIT_S = 20.0
CONTROLLER = Author("controller", "controller")

T = TypeVar("T")


class Repository:
    """Versions by state; the rest of the control is not asked for here."""

    def __init__(self, versions: dict[str, str]) -> None:
        self.versions = versions

    async def index(self) -> list[ModelStatus]:
        return [ModelStatus("flights", one, state, "") for one, state in self.versions.items()]


class RolloutAdminPort:
    """Model ``flights``; ``versions``: their states in the repository. All that are ready are warm.

    ``tokens``: a tokens file; ``is_on``: whether there are rollouts at all.
    """

    def __init__(
        self,
        folder: Path,
        versions: dict[str, str],
        *,
        tokens: Path | None = None,
        changes_per_min: int = 1000,
        is_on: bool = True,
    ) -> None:
        self.store = MemoryRollouts()
        self.audit_file = folder / "audit.jsonl"
        self.repository = Repository(versions)
        self.requests: list[tuple[str, str]] = []
        """Method and path of each."""
        self.before: Callable[[str, str], Awaitable[None]] | None = None
        """Runs before a request, by its method and path."""
        self._folder = folder
        self._tokens = tokens
        self._changes_per_min = changes_per_min
        self._is_on = is_on
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> RolloutAdminPort:
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        self.do(self.beat())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._socket.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it on the server's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    # -- what happens behind the port -------------------------------------------------------------

    async def beat(self) -> None:
        """A gateway says what it has warm, and acts on the newest plan."""
        warm = frozenset(one for one, state in self.repository.versions.items() if state == "READY")
        stored = await self.store.plan("flights")
        revision = stored.plan.revision if stored else 0
        model = ModelBeat("flights", revision, 1.0, warm)
        await self.store.beat(WorkerBeat("gateway-1", time.time(), (model,)))

    async def fire(self, event: Event, reason: str = "as counted") -> None:
        """What the controller would do."""
        stored = await self.store.plan("flights")
        assert stored is not None
        plan = stored.plan
        warm = frozenset(self.repository.versions)
        change = Change(event=event, revision=plan.revision)
        after = apply(plan, change, time.time(), CONTROLLER, reason, warm)
        assert isinstance(after, Plan), after
        assert isinstance(await self.store.write(after, plan.revision, 0), Written)

    def plan(self) -> Plan:
        """As it is stored."""
        stored = self.do(self.store.plan("flights"))
        assert stored is not None
        return stored.plan

    def has_plan(self) -> bool:
        return self.do(self.store.plan("flights")) is not None

    # -- the server -------------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        config = uvicorn.Config(
            self._app(), log_config=None, access_log=False, lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.001)
        self._ready.set()
        await serving

    def _app(self) -> Any:
        async def facts(model: str) -> Facts:
            return Facts(versions=frozenset(self.repository.versions))

        administration = Administration(
            self.store, AuditLog(self.audit_file), facts, wall_clock=time.time, sleep=_turn
        )
        access = RolloutAccess(self._tokens, max_changes_per_min=self._changes_per_min)
        rollouts = RolloutRoutes(administration, access).routes() if self._is_on else []
        control = cast(RepositoryControl, self.repository)
        app = Starlette(
            routes=[*rollouts, *RepositoryRoutes(control).routes()],
            exception_handlers={
                HTTPException: on_http_exception,
                HeadraceError: on_headrace_error,
                Exception: on_headrace_error,
            },
        )
        walled = RolloutWall(app, access)

        async def noted(scope: Any, receive: Any, send: Any) -> None:
            seen = (scope["method"], scope["path"])
            self.requests.append(seen)
            if self.before is not None:
                await self.before(*seen)
            await walled(scope, receive, send)

        return noted


async def _turn(_: float) -> None:
    """What waits for versions to be loaded has waited at once."""
    await asyncio.sleep(0)


class AnswerLoser:
    """Passes connections on to ``port``, and cuts the first ``lose`` off as soon as their answer begins."""

    def __init__(self, port: int, lose: int) -> None:
        self._server_port = port
        self._lose = lose
        self.accepted = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> AnswerLoser:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # which ends the accept
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            with (
                client,
                socket.create_connection(("127.0.0.1", self._server_port), WAIT_S) as there,
            ):
                client.settimeout(WAIT_S)
                self._pass_on(client, there, is_lost=self.accepted <= self._lose)

    def _pass_on(self, client: socket.socket, there: socket.socket, *, is_lost: bool) -> None:
        """One request and its answer, each small enough to come in what is read here."""
        request = client.recv(65_536)
        head, _, body = request.partition(b"\r\n\r\n")
        length = next(
            (
                int(line[15:])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ),
            0,
        )
        while len(body) < length:
            more = client.recv(65_536)
            body, request = body + more, request + more
        there.sendall(request)
        answer = there.recv(1)
        if is_lost:
            # No linger: a reset, as a middlebox or a process that dies would send.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        client.sendall(answer)
        while part := there.recv(65_536):  # until the end: the client asks for it
            client.sendall(part)
