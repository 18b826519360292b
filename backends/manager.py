"""Brings what is loaded to what is desired: opens, judges and warms every model of a repository.

Decides the order of the steps and what the index says. It must never let one bad model stop
another, never serve a version that did not pass all its steps, and never change a state in place:
whoever swaps versions under running requests keeps the old state until the new one counts.

Nothing here closes a model. A session of ONNX Runtime goes with the last reference to its backend,
so a version that is dropped lives exactly as long as somebody still runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

import msgspec

from backends.batchability import Batchability, judge_batchability
from backends.errors import FilesChanged, ModelLoadError
from backends.fingerprint import current_fingerprint
from backends.model_settings import FeaturesSettings, ModelSettings
from backends.onnx import OnnxBackend
from backends.ports import Backend, Clock
from backends.repository import (
    Desired,
    DesiredModel,
    DesiredVersion,
    Problem,
    scan_model,
    scan_repository,
)
from backends.signature import Signature
from backends.triton_config import check_signature
from backends.warmup import Warmup, WarmupTiming, warm_up

_CHANGED = (
    "its files changed while it was being loaded; load it again when they are completely copied"
)

Stage = Literal["opening", "probing", "warming", "ready", "refused"]
Report: TypeAlias = Callable[[Stage, str], None]
"""Called with the stage that begins, and the reason where it is a refusal."""


class Fit(Protocol):
    """What somebody else must be able to make of a version before it may serve."""

    def __call__(self, features: FeaturesSettings, signature: Signature, /) -> object:
        """Anything, kept in ``LoadedModel.fitted``; raises ``ModelLoadError`` when it does not fit."""
        ...


def fit_nothing(features: FeaturesSettings, signature: Signature, /) -> object:
    """For whoever has no features: a version that asks for them cannot serve."""
    if features.service:
        raise ModelLoadError(
            f"it takes its inputs from feature service '{features.service}', and this gateway has no "
            "features: set `features.manifest` to the manifest that `headrace features apply` wrote"
        )
    return None


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
    path: Path = Path()
    """The model file."""
    fingerprint: str = ""
    """Of the files it was loaded from, as in ``DesiredVersion``."""
    ignored: tuple[str, ...] = ()
    """What its ``config.pbtxt`` asks for in vain."""
    fitted: object = None
    """What the ``Fit`` made of the version."""

    @property
    def remarks(self) -> str:
        """What an operator might not expect of a version that is served; empty when nothing is."""
        batchability = self.batchability
        remarks = [self.warmup_problem]
        if not batchability.max_batch_size:
            remarks.insert(0, batchability.reason)
        elif batchability.max_batch_size < self.settings.batching.max_batch_size:
            remarks = [batchability.reason]
        if self.ignored:
            remarks.append(f"ignored in config.pbtxt: {', '.join(self.ignored)}")
        return "; ".join(remark for remark in remarks if remark)


class IndexEntry(msgspec.Struct, frozen=True):
    """A line of the repository index; the reason of a READY version is what might surprise."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class RepositoryState(msgspec.Struct, frozen=True, eq=False):
    """What should be there, what is there, and why the rest is not. Changes make a new state."""

    desired: Desired
    """The last look at the folders."""
    loaded: tuple[LoadedModel, ...]
    """By name, the newest version of each name first."""
    refused: tuple[Problem, ...]
    """What the look found wrong, and the loads that failed since."""
    unloaded: frozenset[tuple[str, str]] = frozenset()
    """(name, version) of what was served and is not any more, of the models that are still there."""

    def index(self) -> list[IndexEntry]:
        """Every known version by name, the newest first; version ``""`` is a whole bad model.

        What is served in spite of a problem is told once, as READY with the problem in its reason.
        """
        wanted = {(m.name, v.version) for m in self.desired.models for v in m.versions}
        served = {(one.name, one.version) for one in self.loaded}
        told = served | {(name, "") for name, _ in served}
        entries = [
            IndexEntry(one.name, one.version, "READY", self._reason(one, wanted))
            for one in self.loaded
        ]
        refused = {(p.name, p.version): p.reason for p in self.refused}
        for reasons in (
            refused,
            dict.fromkeys(self.unloaded, "unloaded"),
            dict.fromkeys(wanted, "not loaded"),
        ):
            entries += [
                IndexEntry(*key, "UNAVAILABLE", reason)
                for key, reason in reasons.items()
                if key not in told
            ]
            told |= reasons.keys()
        return sorted(
            entries, key=lambda entry: (entry.name, -int(entry.version or 0), entry.version)
        )

    def _reason(self, one: LoadedModel, wanted: Collection[tuple[str, str]]) -> str:
        """Its remarks, or what keeps its successor away."""
        failures = [problem for problem in self.refused if problem.name == one.name]
        is_wanted = (one.name, one.version) in wanted
        for problem in failures:
            if problem.version in ("", one.version):
                return f"version kept; reload failed: {problem.reason}"
        if failures and not is_wanted:
            newest = max(failures, key=lambda problem: int(problem.version))
            return f"version kept; load of version {newest.version} failed: {newest.reason}"
        return one.remarks

    def with_desired(self, desired: Desired) -> RepositoryState:
        """After another look: its problems replace those of the last one.

        A load that failed stays told as long as its version is wanted, and not served as it lies
        there.
        """
        wanted = {(m.name, v.version, v.fingerprint) for m in desired.models for v in m.versions}
        wanted -= {(one.name, one.version, one.fingerprint) for one in self.loaded}
        missing = {(name, version) for name, version, _ in wanted}
        names = desired.names
        failed = [p for p in self.refused if p.fingerprint and (p.name, p.version) in missing]
        return msgspec.structs.replace(
            self,
            desired=desired,
            refused=(*desired.problems, *failed),
            unloaded=frozenset(key for key in self.unloaded if key[0] in names),
        )

    def with_loaded(self, model: LoadedModel) -> RepositoryState:
        """After a load: this version takes the place of the one with its name and number.

        Of the versions of this model that are gone, only those are remembered that go after it: a
        model that is replaced every day must not make the index longer every day.
        """
        key = (model.name, model.version)
        others = [one for one in self.loaded if (one.name, one.version) != key]
        others.append(model)
        return msgspec.structs.replace(
            self,
            loaded=tuple(sorted(others, key=lambda one: (one.name, -int(one.version)))),
            refused=_without(self.refused, key),
            unloaded=frozenset(gone for gone in self.unloaded if gone[0] != model.name),
        )

    def with_outcome(self, outcome: LoadedModel | Problem) -> RepositoryState:
        """After ``Loader.attempt``."""
        if isinstance(outcome, Problem):
            return self.with_refused(outcome)
        return self.with_loaded(outcome)

    def with_refused(self, problem: Problem) -> RepositoryState:
        """After a load that failed. What is served under this name and number stays."""
        others = _without(self.refused, (problem.name, problem.version))
        return msgspec.structs.replace(self, refused=(*others, problem))

    def without(self, name: str, version: str) -> RepositoryState:
        """After an unload."""
        key = (name, version)
        gone = {key} if name in self.desired.names else set()
        return msgspec.structs.replace(
            self,
            loaded=tuple(one for one in self.loaded if (one.name, one.version) != key),
            refused=_without(self.refused, key),
            unloaded=self.unloaded | gone,
        )


def _without(problems: tuple[Problem, ...], key: tuple[str, str]) -> tuple[Problem, ...]:
    return tuple(problem for problem in problems if (problem.name, problem.version) != key)


class Loader:
    """Turns one desired version into a loaded one, in steps that it reports."""

    def __init__(self, *, intra_op_threads: int, clock: Clock, fit: Fit = fit_nothing) -> None:
        self._intra_op_threads = intra_op_threads
        self._clock = clock
        self._fit = fit

    def load(self, model: DesiredModel, version: DesiredVersion, report: Report) -> LoadedModel:
        """Blocking. Raises ``ModelLoadError`` with the reason for the index.

        ``FilesChanged`` where the files are not, afterwards, what the look at the repository found.
        Whatever ``report`` raises ends the load between two steps.
        """
        try:
            loaded = self._load(model, version, report)
        except ModelLoadError as error:
            if has_changed(version):
                raise FilesChanged(f"{error}; {_CHANGED}") from error
            raise
        if has_changed(version):
            raise FilesChanged(_CHANGED)
        return loaded

    def attempt(
        self, model: DesiredModel, version: DesiredVersion, report: Report
    ) -> LoadedModel | Problem:
        """``load``, and report how it ended; a failure comes back as the problem for the index."""
        try:
            loaded = self.load(model, version, report)
        except Exception as error:  # noqa: BLE001  one model's lack of memory must not cost another
            reason = _reason(error)
            report("refused", reason)
            return Problem(model.name, version.version, reason, version.fingerprint)
        report("ready", "")
        return loaded

    def _load(self, model: DesiredModel, version: DesiredVersion, report: Report) -> LoadedModel:
        settings = model.settings
        if version.features is not None:
            settings = msgspec.structs.replace(settings, features=version.features)
        report("opening", "")
        backend = self._open(model, version)
        fitted = self._fit(settings.features, backend.signature)
        ignored: tuple[str, ...] = ()
        if model.triton is not None:
            ignored = model.triton.ignored + check_signature(model.triton, backend.signature)
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
            path=version.path,
            fingerprint=version.fingerprint,
            ignored=ignored,
            fitted=fitted,
        )

    def _open(self, model: DesiredModel, version: DesiredVersion) -> OnnxBackend:
        runtime = model.settings.onnxruntime
        try:
            return OnnxBackend.open(version.path, runtime, intra_op_threads=self._intra_op_threads)
        except ModelLoadError as error:
            asks = {} if model.triton is None else model.triton.sections.get("onnxruntime", {})
            if asks.get("device") == runtime.device == "cuda" and "device" in str(error):
                raise ModelLoadError(
                    f'{error}. It is config.pbtxt that asks for a GPU; `device = "cpu"` in '
                    "[onnxruntime] of model.toml overrules it"
                ) from error
            raise

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


def has_changed(version: DesiredVersion) -> bool:
    """Are its files not any more what the look at the repository found?"""
    try:
        return current_fingerprint(version.path.parent) != version.fingerprint
    except (OSError, ModelLoadError):
        return True


def load_repository(
    root: Path,
    *,
    intra_op_threads: int,
    clock: Clock,
    on_progress: Callable[[Progress], None],
    only: Collection[str] | None = None,
    fit: Fit = fit_nothing,
    versions: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> RepositoryState:
    """Load everything under ``root`` that should be loaded, one version after another.

    With ``only``, just the models of these names; the index lists the others as not loaded. Of the
    models in ``versions`` these are loaded, whatever their policy says. Raises
    ``RepositoryError`` when ``root`` is no readable folder, and nothing else: a model that cannot
    be loaded is in ``refused`` with its reason.
    """
    desired = scan_repository(root, versions=versions)
    state = RepositoryState(desired, (), desired.problems)
    loader = Loader(intra_op_threads=intra_op_threads, clock=clock, fit=fit)
    wanted = [
        (model, version)
        for model in desired.models
        for version in model.versions
        if only is None or model.name in only
    ]
    for position, (model, version) in enumerate(wanted, start=1):
        if has_changed(version):  # a long start may lie between the look and this load
            fresh, problems = scan_model(root, model.name, versions=versions.get(model.name))
            state = state.with_desired(state.desired.with_model(model.name, fresh, problems))
            again = None if fresh is None else fresh.find(version.version)
            if fresh is None or again is None:
                continue
            model, version = fresh, again
        report = _reporter(on_progress, model.name, version.version, position, len(wanted))
        state = state.with_outcome(loader.attempt(model, version, report))
    for name in sorted(set(only or ()) - state.desired.names):
        state = state.with_refused(Problem(name, "", f"it is not in the model repository {root}"))
    return state


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
