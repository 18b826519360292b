"""A folder of invented models, and the control over what of it is served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from backends.batchability import Batchability
from backends.manager import LoadedModel, Loader, Report, RepositoryState
from backends.repository import DesiredModel, DesiredVersion, Problem, scan_repository
from gateway.core.statistics import VersionStatistics
from gateway.messages import ModelStatus
from gateway.settings import RepositorySettings
from gateway.supervisor.local_control import LocalControl
from tests.support.loops import TIMEOUT_S

DRAIN_S = 0.02


class FakeLoader:
    """Loads whatever does not begin with "bad"; a gate holds loads up."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def attempt(
        self, model: DesiredModel, version: DesiredVersion, report: Report
    ) -> LoadedModel | Problem:
        content = version.path.read_text()
        self.begun.set()
        assert self.gate.wait(TIMEOUT_S)
        if content.startswith("bad"):
            return Problem(model.name, version.version, content, version.fingerprint)
        return LoadedModel(
            name=model.name,
            version=version.version,
            backend=cast("Any", content),
            settings=model.settings,
            batchability=Batchability(8, ""),
            warmup_timings=(),
            warmup_problem="",
            path=version.path,
            fingerprint=version.fingerprint,
        )


class FakeSwapper:
    """What is served; ``held`` versions are slow to go."""

    def __init__(self) -> None:
        self.served: dict[tuple[str, str], str] = {}
        self.held: dict[tuple[str, str], Callable[[], None]] = {}
        self.holds = False
        self.statuses: list[ModelStatus] = []

    def swap_in(self, model: LoadedModel, on_replaced_gone: Callable[[], None]) -> None:
        self.served[model.name, model.version] = str(model.backend)

    def retire(self, name: str, version: str, on_gone: Callable[[], None]) -> None:
        self.served.pop((name, version), None)
        if self.holds:
            self.held[name, version] = on_gone
        else:
            on_gone()

    def set_statuses(self, statuses: Iterable[ModelStatus]) -> None:
        self.statuses = list(statuses)

    def statistics(self) -> list[VersionStatistics]:
        return [VersionStatistics(name, version) for name, version in self.served]


class Stage:
    """A folder, and the control over it."""

    def __init__(
        self,
        root: Path,
        mode: str = "explicit",
        planned: Mapping[str, Collection[int]] = MappingProxyType({}),
    ) -> None:
        self.root = root
        self.loader = FakeLoader()
        self.swapper = FakeSwapper()
        desired = scan_repository(root)
        self.control = LocalControl(
            RepositorySettings(models=str(root), control=mode, poll_interval_s=1e-3),  # type: ignore[arg-type]
            RepositoryState(desired, (), desired.problems),
            cast("Loader", self.loader),
            self.swapper,
            drain_timeout_s=DRAIN_S,
            planned=planned,
        )

    def write(self, name: str, version: int, content: str) -> None:
        folder = self.root / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_text(content)

    def state(self, name: str, version: str) -> tuple[str, str]:
        return next(
            (one.state, one.reason)
            for one in self.swapper.statuses
            if (one.name, one.version) == (name, version)
        )


async def begun(stage: Stage) -> None:
    assert await asyncio.to_thread(stage.loader.begun.wait, TIMEOUT_S)
