"""Decides what stands on the stage of the rollouts bench: models in equal versions, a store, gateways, and plans.

Plans are made as operators make them: over the admin port, by HTTP. It must never use a store that somebody else uses,
nor leave one behind, nor share code with what it judges.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loadtests import models
from loadtests.failures import RowError
from loadtests.feature_lookups_stage import store
from loadtests.operations_models import TreesRepository
from loadtests.server_process import ServerProcess, running
from loadtests.servers import Catalogue
from loadtests.workbench import Workbench

PLAIN, ROUTED, SHADOWED = "plain", "routed", "shadowed"
"""One version and never a plan; the same in two versions; and one that takes some hundred µs, in two versions."""
CHAMPION, CANDIDATE = "1", "2"
USER = "x-user"
NEVER_S, NEVER_SAMPLES = 86_400.0, 1_000_000_000
"""No controller may move a weight of the bench: only the bench does."""
NEVER_SLOW_MS = 3_600_000.0
CHANGES_PER_MIN = 10_000
ANSWER_TIMEOUT_S = 60.0
IN_FORCE_WITHIN_S = 20.0
POLL_S = 0.005


def write_repository(bench: Workbench) -> Path:
    """The three models of this page; equal versions have equal files. Returns the repository's root."""
    root = bench.folder / "rollouts-models"
    shutil.rmtree(root, ignore_errors=True)
    tiny = models.model_path(bench.servers.repository, models.TINY)
    trees = TreesRepository(bench.folder / "rollouts-trees")
    trees.root.parent.mkdir(parents=True, exist_ok=True)
    trees.write()
    both = (CHAMPION, CANDIDATE)
    for name, source, versions in (
        (PLAIN, tiny, (CHAMPION,)),
        (ROUTED, tiny, both),
        (SHADOWED, trees.model_file, both),
    ):
        for version in versions:
            place = root / name / version
            place.mkdir(parents=True)
            shutil.copyfile(source, place / "model.onnx")
    return root


@contextlib.contextmanager
def gateways(
    bench: Workbench,
    repository: Path,
    *,
    instances: int,
    workers: int,
    cores: int | str,
    control: bool,
) -> Iterator[list[ServerProcess]]:
    """So many gateways over one store, which is on the load's core: what is counted here is the gateways' time."""
    with (
        store(bench.load_core) as rows,
        tempfile.TemporaryDirectory(prefix="hrr") as state,
        contextlib.ExitStack() as stack,
    ):
        started = []
        for number in range(instances):
            variables = {
                "HEADRACE_STORE_REDIS_URL": rows.url,
                "HEADRACE_ROLLOUT_ENABLED": "true",
                "HEADRACE_ROLLOUT_CONTROL": str(control).lower(),
                "HEADRACE_ROLLOUT_STATE_DIR": f"{state}/{number}",
                "HEADRACE_ROLLOUT_MAX_CHANGES_PER_MIN": str(CHANGES_PER_MIN),
            }
            line = ["env", *(f"{key}={value}" for key, value in variables.items())]
            line += Catalogue(repository, bench.servers.headrace).command("headrace")
            line.append(f"--workers={workers}")
            name = f"rollouts-{number}"
            started.append(stack.enter_context(running(name, line, cores, bench.logs)))
        yield started


# -- plans ------------------------------------------------------------------------------------------


def proposal(
    salt: str, percents: list[float], source: str = f"header:{USER}", shadow_percent: float = 0.0
) -> dict[str, object]:
    """A plan that only its author moves: version 1 answers, 2 gets ``percents`` and sees ``shadow_percent`` copies."""
    shadows = [{"version": CANDIDATE, "percent": shadow_percent, "salt": f"{salt}-copies"}]
    return {
        "champion": CHAMPION,
        "candidate": CANDIDATE,
        "sticky": {"from": source, "salt": salt},
        "steps": [
            {"percent": one, "min_time_s": NEVER_S, "min_samples": NEVER_SAMPLES}
            for one in percents
        ],
        "shadows": shadows if shadow_percent else [],
        "shadow_min_time_s": NEVER_S,
        "shadow_min_samples": NEVER_SAMPLES,
        "self_copy_percent": 0.0,
        "slo_ms": NEVER_SLOW_MS,
        "deadline_s": 10 * NEVER_S,
    }


class _Plan(msgspec.Struct):
    revision: int


class _Gateway(msgspec.Struct):
    gateway: str
    revision: int


class _Status(msgspec.Struct):
    gateways: list[_Gateway]


@dataclass(slots=True)
class Admin:
    """One gateway's admin port; keeps its connection."""

    _line: http.client.HTTPConnection

    @classmethod
    def of(cls, gateway: ServerProcess) -> Admin:
        """Connects when first asked."""
        return cls(http.client.HTTPConnection(*gateway.address("admin"), timeout=ANSWER_TIMEOUT_S))

    def put(self, model: str, document: dict[str, object]) -> int:
        """Puts a plan in the place of whatever is there, and starts it: its revision."""
        status, _ = self._ask("GET", f"/v2/rollouts/{model}")
        condition = {}
        if status == 200:
            condition["if-match"] = f'"{self.revision(model)}"'
        path = f"/v2/rollouts/{model}?start=true"
        return self._changed("PUT", path, msgspec.json.encode(document), condition)

    def step(self, model: str, number: int) -> int:
        """Moves the weight to step ``number``, from 1: the revision that this made."""
        body = msgspec.json.encode({"reason": "bench", "step": number})
        return self._changed("POST", f"/v2/rollouts/{model}/step", body, {})

    def revision(self, model: str) -> int:
        """Of the plan that the store has."""
        return msgspec.json.decode(self._good("GET", f"/v2/rollouts/{model}"), type=_Plan).revision

    def acting(self, model: str) -> list[int]:
        """The revisions that the gateways' heartbeats tell of, one for each worker."""
        said = self._good("GET", f"/v2/rollouts/{model}/status")
        return [one.revision for one in msgspec.json.decode(said, type=_Status).gateways]

    def await_force(self, model: str, revision: int, workers: int) -> float:
        """When, on the monotonic clock, so many workers' heartbeats told of this revision.

        Raises ``RowError`` when they do not within ``IN_FORCE_WITHIN_S``.
        """
        give_up_s = time.monotonic() + IN_FORCE_WITHIN_S
        found: list[int] = []
        while time.monotonic() < give_up_s:
            found = self.acting(model)
            if sum(one >= revision for one in found) >= workers:
                return time.monotonic()
            time.sleep(POLL_S)
        raise RowError(
            f"revision {revision} is not in force on {workers} workers after {IN_FORCE_WITHIN_S:g} s: {found}"
        )

    def close(self) -> None:
        """Ends the connection."""
        self._line.close()

    def _changed(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
        said = self._good(method, path, body, {**headers, "x-headrace-reason": "bench"})
        return msgspec.json.decode(said, type=_Plan).revision

    def _good(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        status, said = self._ask(method, path, body, headers)
        if status not in (200, 201):
            raise RowError(
                f"{method} {path} was answered {status}: {said[:500].decode(errors='replace')}"
            )
        return said

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        typed = {"content-type": "application/json", **(headers or {})}
        self._line.request(method, path, body or None, typed)
        reply = self._line.getresponse()
        return reply.status, reply.read()
