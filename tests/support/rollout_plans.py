"""Plans that are written to a real store, and users who ask the gateways that follow them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from protos.inference import ModelInferRequest, ModelInferResponse
from rollout.plan import Event, Plan, Step, Sticky
from rollout.ports import Rollouts, WorkerBeat, Written
from rollout.redis_rollouts import RedisRollouts
from tests.support.raw_h2 import RawGrpc
from tests.support.raw_http import RawHttp, Response, ask_once, floats_json, post_infer
from tests.support.server_process import ServerProcess
from tests.support.waiting import eventually
from tests.unit.rollout.plans import (
    APPROVER,
    BY_CONTROLLER,
    CONTROLLER,
    draft,
    happen,
    made,
    proposal,
)

MODEL = "identity"
USERS = [f"user-{number}" for number in range(200)]
STEPS = (1.0, 5.0, 25.0, 50.0)
ROW = np.arange(4, dtype=np.float32)
WITHIN_S = 30.0
IN_FORCE_WITHIN_S = 1.0

T = TypeVar("T")


class Plans:
    """Somebody who writes plans, as the controller or a person does."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url

    def _run(self, work: Callable[[Rollouts], Coroutine[Any, Any, T]]) -> T:
        async def whole() -> T:
            rollouts = RedisRollouts(self._url)
            try:
                return await work(rollouts)
            finally:
                await rollouts.close()

        return asyncio.run(whole())

    def put(self, plan: Plan) -> Plan:
        written = self._run(lambda rollouts: rollouts.write(plan, plan.revision - 1, 0))
        assert isinstance(written, Written), written
        return plan

    def beats(self) -> list[WorkerBeat]:
        return [one for one in self._run(lambda rollouts: rollouts.beats()) if not one.has_left]

    def await_force(
        self, plan: Plan, workers: int, *, warm: Sequence[str] = (), within_s: float = WITHIN_S
    ) -> float:
        """Until every worker says that it acts on it; how long that took."""
        began_s = time.monotonic()

        def acts() -> bool:
            beats = self.beats()
            said = [beat.models[0] for beat in beats if beat.models]
            return len(said) == len(beats) == workers and all(
                one.revision == plan.revision and one.warm >= set(warm) for one in said
            )

        eventually(f"revision {plan.revision} is in force", acts, within_s=within_s)
        return time.monotonic() - began_s


def a_draft(source: str = "header:x-user", **changed: Any) -> Plan:
    """From version 1 to version 2, of the model whose newest is 3."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "champion": "1",
        "candidate": "2",
        "sticky": Sticky(source=source, salt="e2e"),
        "steps": tuple(Step(percent=one) for one in STEPS),
    }
    return draft(proposal(**fields | changed), now_s=time.time())


def at_once(plans: Plans, percent: float = 50.0, **changed: Any) -> Plan:
    """A plan at its only step."""
    plan = plans.put(a_draft(steps=(Step(percent=percent),), **changed))
    return plans.put(move(plan, Event.START))


def move(plan: Plan, *events: Event) -> Plan:
    for event in events:
        author = CONTROLLER if event in BY_CONTROLLER else APPROVER
        warm = frozenset({"1", "2", "3", "9"})
        plan = made(happen(plan, event, author, now_s=time.time(), warm=warm))
    return plan


def settings(tmp_path: Path, **more: object) -> dict[str, object]:
    return {
        "rollout__enabled": True,
        "rollout__control": False,
        "rollout__state_dir": tmp_path / "rollout",
    } | more


# -- asking -----------------------------------------------------------------------------------------


def ask(server: ServerProcess, user: str | None = None, *, version: str = "") -> Response:
    """REST, on a connection of its own: any worker may answer."""
    headers = [] if user is None else [("x-user", user)]
    answer = ask_once(server.http, post_infer(MODEL, floats_json(), headers, version=version))
    assert answer.status == 200, answer
    return answer


def versions_of_users(server: ServerProcess, users: Sequence[str] = USERS) -> dict[str, str]:
    """Who answers whom, on one connection."""
    found = {}
    with RawHttp(server.http) as connection:
        for user in users:
            answer = connection.ask(post_infer(MODEL, floats_json(), [("x-user", user)]))
            assert answer.status == 200, answer
            found[user] = answer.json["model_version"]
            assert answer.headers["x-headrace-version"] == found[user]
    return found


def by_grpc(
    server: ServerProcess, headers: Sequence[tuple[str, str]] = (), **parameters: str
) -> ModelInferResponse:
    one = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4])
    asked = ModelInferRequest(model_name=MODEL, inputs=[one], raw_input_contents=[ROW.tobytes()])
    for name, value in parameters.items():
        asked.parameters[name].string_param = value
    with RawGrpc(server.grpc) as connection:
        return connection.ask(asked.SerializeToString(), headers=headers).reply
