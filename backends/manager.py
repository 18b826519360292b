"""Brings what is loaded to what is desired: opens, judges and warms every model of a repository.

Decides the order of the steps and what the index says. It must never let one bad model stop
another, and never serve a version that did not pass all its steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from backends.batchability import Batchability, judge_batchability
from backends.errors import ModelLoadError
from backends.model_settings import ModelSettings
from backends.onnx import OnnxBackend
from backends.ports import Backend, Clock
from backends.repository import Desired, DesiredModel, DesiredVersion, Problem, scan_repository
from backends.warmup import Warmup, WarmupTiming, warm_up

Stage = Literal["opening", "probing", "warming", "ready", "refused"]
Report: TypeAlias = Callable[[Stage, str], None]
"""Called with the stage that begins, and the reason where it is a refusal."""


class Progress(msgspec.Struct, frozen=True):
    """One step of a load. ``position`` of ``total`` counts the versions that are tried."""

    name: str
    version: str
    stage: Stage
    position: int
    total: int
    reason: str
    """Why the version was refused; empty in all other stages."""


class LoadedModel(msgspec.Struct, frozen=True, eq=False):
    """One version that can be asked."""

    name: str
    version: str
    backend: Backend
    settings: ModelSettings
    batchability: Batchability
    warmup_timings: tuple[WarmupTiming, ...]
    warmup_problem: str
    sha256: str
    """Of the model file alone, not of external data beside it."""
    load_seconds: float


class IndexEntry(msgspec.Struct, frozen=True):
    """A line of the repository index; the reason of a READY version is what might surprise."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class RepositoryState(msgspec.Struct, frozen=True, eq=False):
    """What should be there, what is there, and why the rest is not."""

    desired: Desired
    loaded: tuple[LoadedModel, ...]
    """By name, the newest version of each name first."""
    refused: tuple[Problem, ...]

    def index(self) -> list[IndexEntry]:
        """Every known version by name, the newest first; version ``""`` is a whole bad model."""
        entries = [IndexEntry(m.name, m.version, "READY", _remarks(m)) for m in self.loaded]
        entries += [IndexEntry(p.name, p.version, "UNAVAILABLE", p.reason) for p in self.refused]
        return sorted(
            entries, key=lambda entry: (entry.name, -int(entry.version or 0), entry.version)
        )


class Loader:
    """Turns one desired version into a loaded one, in steps that it reports."""

    def __init__(self, *, intra_op_threads: int, clock: Clock) -> None:
        self._intra_op_threads = intra_op_threads
        self._clock = clock

    def load(self, model: DesiredModel, version: DesiredVersion, report: Report) -> LoadedModel:
        """Blocking. Raises ``ModelLoadError`` with the reason for the index."""
        started_s = self._clock()
        settings = model.settings
        report("opening", "")
        sha256 = _sha256(version.path)
        backend = OnnxBackend.open(
            version.path, settings.onnxruntime, intra_op_threads=self._intra_op_threads
        )
        report("probing", "")
        batchability = judge_batchability(backend, settings.batching)
        warmup = Warmup((), "")
        if settings.warmup.enabled:
            report("warming", "")
            warmup = self._warm_up(backend, settings, batchability)
        return LoadedModel(
            name=model.name,
            version=version.version,
            backend=backend,
            settings=settings,
            batchability=_proven(batchability, warmup, settings),
            warmup_timings=warmup.timings,
            warmup_problem=warmup.problem,
            sha256=sha256,
            load_seconds=self._clock() - started_s,
        )

    def _warm_up(
        self, backend: Backend, settings: ModelSettings, batchability: Batchability
    ) -> Warmup:
        return warm_up(
            backend.run,
            backend.signature,
            max_batch_size=batchability.max_batch_size,
            runs=settings.warmup.runs,
            clock=self._clock,
        )


def load_repository(
    root: Path, *, intra_op_threads: int, clock: Clock, on_progress: Callable[[Progress], None]
) -> RepositoryState:
    """Load everything under ``root`` that should be loaded, one version after another.

    Raises ``RepositoryError`` when ``root`` is no readable folder, and nothing else: a model that
    cannot be loaded is in ``refused`` with its reason.
    """
    desired = scan_repository(root)
    loader = Loader(intra_op_threads=intra_op_threads, clock=clock)
    loaded: list[LoadedModel] = []
    refused = list(desired.problems)
    wanted = [(model, version) for model in desired.models for version in model.versions]
    for position, (model, version) in enumerate(wanted, start=1):
        report = _reporter(on_progress, model.name, version.version, position, len(wanted))
        try:
            loaded.append(loader.load(model, version, report))
        except Exception as error:  # noqa: BLE001  one model's lack of memory must not cost another
            reason = _reason(error)
            refused.append(Problem(model.name, version.version, reason))
            report("refused", reason)
        else:
            report("ready", "")
    return RepositoryState(desired, tuple(loaded), tuple(refused))


def _reporter(
    on_progress: Callable[[Progress], None], name: str, version: str, position: int, total: int
) -> Report:
    def report(stage: Stage, reason: str) -> None:
        on_progress(Progress(name, version, stage, position, total, reason))

    return report


def _reason(error: Exception) -> str:
    if isinstance(error, ModelLoadError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}"


def _proven(batchability: Batchability, warmup: Warmup, settings: ModelSettings) -> Batchability:
    """A batch size that failed in warm-up would fail in service too; the next smaller one ran."""
    if not (warmup.problem and warmup.timings) or settings.batching.mode != "auto":
        return batchability
    largest = warmup.timings[-1].rows
    return Batchability(largest, f"batches end at {largest} rows: {warmup.problem}")


def _remarks(model: LoadedModel) -> str:
    """What an operator might not expect of a version that is served."""
    batchability = model.batchability
    if 0 < batchability.max_batch_size < model.settings.batching.max_batch_size:
        return batchability.reason
    remarks = (batchability.reason if not batchability.max_batch_size else "", model.warmup_problem)
    return "; ".join(remark for remark in remarks if remark)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error.strerror}") from error
