"""The folder of models, and the loader that reads it, without a disk.

Decides what lies there when somebody looks, and how long a load takes. The gateway's own control looks at it
through the same functions through which it looks at a disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from backends.errors import ModelLoadError
from backends.manager import LoadedModel, Loader, Report
from backends.model_settings import ModelSettings
from backends.repository import Desired, DesiredModel, DesiredVersion, Problem
from gateway.supervisor import local_control
from tests.sim.plans import Day, ModelPlan, Operation
from tests.sim.scripted_model import ScriptedModel, load

ROOT = Path("models")
BROKEN_MODEL = "broken"
"""A model of the repository that can never be loaded."""


class Folder:
    """Plans by name and version, with the state of their files."""

    def __init__(self, day: Day) -> None:
        self.changes = 0
        """How often anything changed."""
        self._kept = day.kept_versions
        self._plans: dict[tuple[str, str], tuple[ModelPlan, str]] = {}
        self._states = count(1)
        for plan in day.models:
            self._put(plan)

    def _put(self, plan: ModelPlan) -> None:
        self._plans[plan.name, plan.version] = (plan, f"state {next(self._states)}")

    def change(self, operation: Operation) -> None:
        """The files that come and go with an operation."""
        for plan in operation.arriving:
            self._put(plan)
            self.changes += 1
        for version in operation.leaving:
            self._plans.pop((operation.model, version), None)
            self.changes += 1

    def plan(self, name: str, version: str) -> ModelPlan:
        return self._plans[name, version][0]

    def wanted(self, name: str) -> dict[str, str]:
        """State by version, of the versions that should be served."""
        numbers = sorted((int(one) for model, one in self._plans if model == name), reverse=True)
        return {str(one): self._plans[name, str(one)][1] for one in numbers[: self._kept]}

    # -- as the control looks at it ---------------------------------------------------------------

    def mounted(self) -> AbstractContextManager[Any]:
        """While control calls look here instead of at the disk."""
        return patch.multiple(
            local_control,
            scan_model=self.scan_model,
            scan_repository=self.scan_repository,
        )

    def scan_model(
        self, root: Path, name: str, *, versions: Collection[int] | None = None
    ) -> tuple[DesiredModel | None, list[Problem]]:
        if name == BROKEN_MODEL:
            return None, [Problem(BROKEN_MODEL, "", "it is broken")]
        wanted = self.wanted(name)
        if versions is not None:
            keys = [(name, str(one)) for one in versions if (name, str(one)) in self._plans]
            wanted = {version: self._plans[name, version][1] for _, version in keys}
        if not wanted:
            return None, []
        found = [
            DesiredVersion(version, root / name / version / "model", state)
            for version, state in wanted.items()
        ]
        return DesiredModel(name, ModelSettings(), tuple(found)), []

    def scan_repository(self, root: Path, *, before: Desired | None = None) -> Desired:
        names = sorted({name for name, _ in self._plans})
        found = [model for name in names if (model := self.scan_model(root, name)[0]) is not None]
        return Desired(tuple(found), (Problem(BROKEN_MODEL, "", "it is broken"),))


class ScriptedLoader(Loader):
    """Loads plans instead of files; everything else is the real one's."""

    def __init__(
        self,
        folder: Folder,
        make_model: Callable[[ModelPlan], ScriptedModel],
        spend: Callable[[float], None],
        complete: Callable[[ScriptedModel], object],
    ) -> None:
        """``complete``: makes the enrichment of a model, None for one that needs none."""
        super().__init__(intra_op_threads=1, clock=lambda: 0.0)
        self._complete = complete
        self._folder = folder
        self._make_model = make_model
        self._spend_s = spend

    def load(self, model: DesiredModel, version: DesiredVersion, report: Report) -> LoadedModel:
        report("opening", "")
        plan = self._folder.plan(model.name, version.version)
        self._spend_s(plan.load_s)
        if not plan.loads:
            raise ModelLoadError("it is planned to fail")
        report("warming", "")
        backend = self._make_model(plan)
        return load(plan, backend, version.fingerprint, self._complete(backend))
