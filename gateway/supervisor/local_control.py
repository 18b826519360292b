"""The repository of one process: what lies in the folder, what is loaded, and how one becomes the other.

Models are opened, probed and warmed on a thread of their own and swapped in on the loop, in two steps, so that several
workers can swap together or not at all. It must never take a version away before its successor is ready, and never
answer before what it answers is true.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

from backends.changes import Changes, VersionKey, changes
from backends.errors import RepositoryError
from backends.manager import LoadedModel, Loader, RepositoryState
from backends.repository import (
    Desired,
    Problem,
    scan_model,
    scan_repository,
)
from gateway.core.statistics import VersionStatistics
from gateway.errors import ErrorCode, HeadraceError, invalid, unknown_model
from gateway.messages import ModelStatus
from gateway.settings import RepositorySettings
from gateway.supervisor.control_mode import refuse_unless_explicit
from gateway.supervisor.in_turn import InTurn

logger = logging.getLogger("headrace.repository")

MAX_NAME_CHARACTERS = 256
OTHER_CHANGE_S = 60.0
"""How long a plan's versions wait for a load that somebody asked for."""
LOOK_AGAIN_S = 0.02

T = TypeVar("T")


class Swapper(Protocol):
    """What serves the versions; callbacks come on the loop."""

    def swap_in(self, model: LoadedModel, on_replaced_gone: Callable[[], None]) -> None: ...
    def retire(self, name: str, version: str, on_gone: Callable[[], None]) -> None: ...
    def set_statuses(self, statuses: Iterable[ModelStatus]) -> None: ...
    def statistics(self) -> list[VersionStatistics]: ...


class _Prepared(NamedTuple):
    """A change that is ready: loaded and warm, and not yet served."""

    state: RepositoryState
    arriving: tuple[LoadedModel, ...]
    leaving: tuple[tuple[str, str], ...]
    failed: tuple[Problem, ...]


class LocalControl:
    """Fills the port ``RepositoryControl`` for one process; the supervisor calls the steps instead."""

    def __init__(
        self,
        settings: RepositorySettings,
        state: RepositoryState,
        loader: Loader,
        swapper: Swapper,
        *,
        drain_timeout_s: float,
        planned: Mapping[str, Collection[int]] = MappingProxyType({}),
    ) -> None:
        """``planned``: versions of models that a rollout's plan names; see ``follow_plan``."""
        self._settings = settings
        self._root = Path(settings.models)
        self._state = state
        self._loader = loader
        self._swapper = swapper
        self._drain_timeout_s = drain_timeout_s
        self._changes = InTurn()
        self._prepared: _Prepared | None = None
        self._attempt_number = 0
        self._threads_inside = 0
        self._preparing = 0
        self._look = state.desired
        self._planned = dict(planned)
        self._unloaded: set[str] = set()
        """Models with a plan that somebody has unloaded: nobody brings them back unasked."""

    # -- the port ---------------------------------------------------------------------------------

    async def index(self) -> list[ModelStatus]:
        return statuses_of(self._state)

    async def load(self, model: str) -> None:
        refuse_unless_explicit(self._settings)
        await self._changes.run(partial(self._load, model))

    async def _load(self, model: str) -> None:
        await self.prepare_load(model)
        self.commit()

    async def unload(self, model: str) -> None:
        refuse_unless_explicit(self._settings)
        await self._changes.run(partial(self.drop, model))

    async def statistics(self, model: str, version: str) -> list[VersionStatistics]:
        found = [
            one
            for one in self._swapper.statistics()
            if model in ("", one.name) and version in ("", one.version)
        ]
        if model and not found:
            what = f"model '{model}'" + (f" version '{version}'" if version else "")
            raise HeadraceError(ErrorCode.NOT_FOUND, f"{what} has not been served: no statistics")
        return found

    # -- in steps ---------------------------------------------------------------------------------

    async def prepare_load(self, model: str) -> None:
        """Load what the folder has of a model now. Raises with the reason when any of it cannot be served."""
        if not model or len(model) > MAX_NAME_CHARACTERS:
            raise invalid("a model's name has 1 to 256 characters")
        prepared = await self._prepare(partial(self._prepare_one, model))
        if prepared.failed:
            # Nothing of it is served, what did load included: all versions of a model or none.
            state = self._state.with_desired(prepared.state.desired)
            for problem in prepared.failed:
                state = state.with_refused(problem)
            self._show(state)
            problem = prepared.failed[0]
            where = "/".join(filter(None, (problem.name, problem.version)))
            raise invalid(f"failed to load '{where}': {problem.reason}")
        self._prepared = prepared
        self._unloaded.discard(model)

    async def prepare_refresh(self) -> None:
        """Load what changed in the folder and has come to rest since. One bad model stops no other."""
        try:
            self._prepared = await self._prepare(self._prepare_all)
        except RepositoryError as error:  # an unmounted disk, for one: what is served stays
            raise HeadraceError(ErrorCode.NOT_READY, str(error)) from None

    async def _prepare(self, work: Callable[[], _Prepared]) -> _Prepared:
        """What comes of it, unless it was given up meanwhile: then nothing may follow from it any more."""
        self.abort()
        number = self._attempt_number
        self._preparing += 1  # until it can be stored: its thread has ended a moment earlier
        try:
            prepared = await self._aside(work)
        finally:
            self._preparing -= 1
        if number != self._attempt_number:
            raise HeadraceError(ErrorCode.NOT_READY, "the load was given up; ask for it again")
        return prepared

    async def _aside(self, work: Callable[[], T]) -> T:
        self._threads_inside += 1
        return await asyncio.to_thread(self._counted, work)

    def _counted(self, work: Callable[[], T]) -> T:
        try:
            return work()
        finally:
            self._threads_inside -= 1

    @property
    def loading(self) -> bool:
        """Whether a thread is inside a load, which nothing can interrupt."""
        return self._threads_inside > 0

    def commit(self) -> None:
        """Serve what was prepared. Versions that it replaces finish what they have, then go."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            self._commit(prepared)

    def _commit(self, prepared: _Prepared) -> None:
        for arriving in prepared.arriving:
            self._swapper.swap_in(arriving, _nothing)
            logger.info(
                "serving",
                extra={
                    "model": arriving.name,
                    "version": arriving.version,
                    "remarks": arriving.remarks,
                },
            )
        for name, version in prepared.leaving:
            self._swapper.retire(name, version, _nothing)
            logger.info("no longer serving", extra={"model": name, "version": version})
        self._show(prepared.state)

    def abort(self) -> None:
        """Forget what was prepared, and what still is."""
        self._attempt_number += 1
        self._prepared = None

    async def drop(self, model: str) -> None:
        """Stop serving a model; returns once its last caller has left."""
        versions = [one.version for one in self._state.loaded if one.name == model]
        if not versions:
            if any(status.name == model for status in statuses_of(self._state)):
                return  # it is not served: so be it
            raise unknown_model(model)
        self._unloaded.add(model)
        await self._drop([(model, version) for version in versions])

    async def _drop(self, leaving: Collection[tuple[str, str]]) -> None:
        loop = asyncio.get_running_loop()
        gone: list[asyncio.Future[None]] = []
        state = self._state
        for name, version in leaving:
            left: asyncio.Future[None] = loop.create_future()
            gone.append(left)
            self._swapper.retire(name, version, partial(_set, left))
            state = state.without(name, version)
        self._show(state)
        _, late = await asyncio.wait(gone, timeout=self._drain_timeout_s)
        if late:
            raise HeadraceError(
                ErrorCode.DEADLINE_EXCEEDED,
                f"still draining after {self._drain_timeout_s:g} s; it takes no new calls",
            )

    async def follow_plan(self, model: str, versions: Collection[str]) -> None:
        """Serve these versions of a model from now on, whatever its policy says; returns when they were tried.

        What cannot be loaded is left out, and the index says why. Raises NOT_READY when the folder cannot be read, or
        other changes leave no room for this one.
        """
        self._planned[model] = [int(version) for version in versions if version.isdecimal()]
        async with self._changes.lock:
            await self._no_other_change()
            while model not in self._unloaded:
                before = self._state
                prepared = await self._aside(partial(self._prepare_one, model))
                await self._no_other_change()
                if self._state is before:  # else it was prepared for what is not there any more
                    self._commit(prepared)
                    return

    async def _no_other_change(self) -> None:
        """The supervisor's changes come in two steps and without our lock: nothing may come between them."""
        give_up_s = time.monotonic() + OTHER_CHANGE_S
        while self._prepared is not None or self._preparing or self._threads_inside:
            if time.monotonic() > give_up_s:
                raise HeadraceError(
                    ErrorCode.NOT_READY, "the repository is busy with other changes"
                )
            await asyncio.sleep(LOOK_AGAIN_S)

    async def catch_up(self, served: Mapping[str, list[str]]) -> None:
        """Serve exactly what the other workers serve, whatever lies in the folder by now."""
        async with self._changes.lock:
            have = {(one.name, one.version) for one in self._state.loaded}
            want = {(name, version) for name, versions in served.items() for version in versions}
            planned = {(name, str(one)) for name, some in self._planned.items() for one in some}
            want |= have & planned
            # What is here already, too: others may have reloaded it while this process was starting.
            prepared = await self._aside(partial(self._prepare_exactly, sorted(want)))
            for problem in prepared.failed:
                logger.error(
                    "the other workers serve it, this one cannot: %s",
                    problem.reason,
                    extra={"model": problem.name, "version": problem.version},
                )
            self._prepared = prepared
            self.commit()
            if have - want:
                await self._drop(sorted(have - want))

    async def poll(self) -> None:
        """Look at the folder again and again, for ever."""
        while True:
            await asyncio.sleep(self._settings.poll_interval_s)
            try:
                async with self._changes.lock:
                    await self.prepare_refresh()
                    self.commit()
            except HeadraceError as error:
                logger.warning("the repository cannot be read: %s", error.message)
            except (
                Exception
            ):  # the next look may go better; without it nobody would ever look again
                logger.exception("looking at the repository failed")

    # -- on the loading thread --------------------------------------------------------------------

    def _prepare_one(self, name: str) -> _Prepared:
        try:
            model, problems = scan_model(self._root, name, versions=self._planned.get(name))
        except RepositoryError as error:
            raise HeadraceError(ErrorCode.NOT_READY, str(error)) from None
        if model is None and not problems:
            raise unknown_model(name)
        desired = self._state.desired.with_model(name, model, problems)
        prepared = self._attempt(desired, changes(desired, self._state, only=(name,)))
        whole = [one for one in problems if not prepared.arriving or not one.version]
        return prepared._replace(failed=(*whole, *prepared.failed))

    def _prepare_all(self) -> _Prepared:
        before, self._look = (
            self._look,
            scan_repository(self._root, before=self._look, versions=self._planned),
        )
        return self._attempt(self._look, changes(self._look, self._state, before=before))

    def _attempt(self, desired: Desired, wanted: Changes) -> _Prepared:
        outcomes = (self._attempt_one(desired, key) for key in wanted.load)
        prepared = _gather(self._state.with_desired(desired), outcomes)
        bad = {one.name for one in prepared.failed}
        leaving = [(key.name, key.version) for key in wanted.unload if key.name not in bad]
        state = prepared.state
        for name, number in leaving:
            state = state.without(name, number)
        return prepared._replace(state=state, leaving=tuple(leaving))

    def _attempt_one(self, desired: Desired, key: VersionKey) -> LoadedModel | Problem:
        model = desired.find(key.name)
        version = model.find(key.version) if model is not None else None
        assert model is not None, key
        assert version is not None, key
        return self._loader.attempt(model, version, _log_stage(key))

    def _prepare_exactly(self, versions: list[tuple[str, str]]) -> _Prepared:
        outcomes = (self._attempt_exactly(name, version) for name, version in versions)
        return _gather(self._state, (one for one in outcomes if one is not None))

    def _attempt_exactly(self, name: str, version: str) -> LoadedModel | Problem | None:
        """A version that the policy need not want any more; None when what is served of it must stay."""
        key = (name, version)
        serving = next((one for one in self._state.loaded if (one.name, one.version) == key), None)
        try:
            model, problems = scan_model(self._root, name, versions=[int(version)])
        except RepositoryError as error:
            return None if serving is not None else Problem(name, version, str(error))
        found = None if model is None else model.find(version)
        if serving is not None and (found is None or found.fingerprint == serving.fingerprint):
            return None
        if model is None or found is None:
            return Problem(name, version, problems[0].reason if problems else "it is gone")
        return self._loader.attempt(model, found, _log_stage(VersionKey(name, version, "")))

    def _show(self, state: RepositoryState) -> None:
        self._state = state
        self._swapper.set_statuses(statuses_of(state))


def _gather(state: RepositoryState, outcomes: Iterable[LoadedModel | Problem]) -> _Prepared:
    """What comes of loading, one after the other."""
    arriving: list[LoadedModel] = []
    failed: list[Problem] = []
    for outcome in outcomes:
        state = state.with_outcome(outcome)
        if isinstance(outcome, Problem):
            failed.append(outcome)
        else:
            arriving.append(outcome)
    return _Prepared(state, tuple(arriving), (), tuple(failed))


def statuses_of(state: RepositoryState) -> list[ModelStatus]:
    """The repository index as the gateway knows it."""
    return [ModelStatus(one.name, one.version, one.state, one.reason) for one in state.index()]


def _log_stage(key: VersionKey) -> Callable[[Any, str], None]:
    def report(stage: Any, reason: str) -> None:
        if stage == "refused":
            logger.error(
                "cannot be served: %s", reason, extra={"model": key.name, "version": key.version}
            )

    return report


def _nothing() -> None:
    return None


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
