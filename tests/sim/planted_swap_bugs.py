"""Bugs to plant where versions and workers come and go: swaps, drains, deaths, catching up, counters.

As in ``planted_bugs.py``: each is one small change, with the words of a complaint that must appear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from backends.manager import LoadedModel
from gateway.core.servables import ServableState, ServableTable, ServableVersion
from gateway.pipeline.dispatch import Dispatch
from gateway.serving import Serving
from gateway.supervisor import spokesman
from gateway.supervisor.local_control import LocalControl
from gateway.supervisor.merge import Family, merge_families
from gateway.supervisor.orphans import Orphanage
from gateway.supervisor.spokesman import Spokesman
from gateway.telemetry.metrics import Metrics
from tests.sim.planted_bugs import BUGS, bug

__all__ = ["BUGS"]


@bug("was replaced", "was retired and never left", "still held")
def a_swap_forgets_to_retire(patch: pytest.MonkeyPatch) -> None:
    def forgets(self: Serving, model: LoadedModel, on_replaced_gone: Callable[[], None]) -> None:
        self.table.put(self._open(model))

    patch.setattr(Serving, "swap_in", forgets)


@bug(
    "is gone with", "closed before it was gone", "ran after the version was gone", "its worker was"
)
def a_version_goes_while_a_batch_runs(patch: pytest.MonkeyPatch) -> None:
    def hasty(self: Serving) -> None:
        for servable in [one for one in self._retired if one.state is ServableState.UNLOADED]:
            on_gone = self._retired.pop(servable)
            self.lanes.pop(servable).close()
            self._workers.pop(servable).close()
            del self.lane_facts[servable]
            self.metrics.retire(servable.name, servable.version)
            on_gone()

    patch.setattr(Serving, "reap", hasty)


@bug("was retired and never left", "failed with HeadraceError(DEADLINE")
def nobody_hears_that_the_last_caller_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Serving, "_on_drained", lambda self, servable: None)
    reap = Serving.reap

    def only_now(self: Serving) -> None:
        """Neither does the sweep look."""
        for servable, on_gone in list(self._retired.items()):
            if servable.state is ServableState.UNLOADED and servable not in _seen(self):
                reap(self)
            _seen(self).add(servable)
            del on_gone

    patch.setattr(Serving, "reap", only_now)


def _seen(serving: Serving) -> set[ServableVersion]:
    seen: set[ServableVersion] = serving.__dict__.setdefault("seen", set())
    return seen


@bug("is gone for the 2. time")
def an_owner_is_told_twice(patch: pytest.MonkeyPatch) -> None:
    leave = Serving._leave

    def twice(self: Serving, servable: ServableVersion, on_gone: Callable[[], None]) -> None:
        def two() -> None:
            on_gone()
            on_gone()

        leave(self, servable, two)

    patch.setattr(Serving, "_leave", twice)


@bug("was closed 0 times")
def the_threads_of_a_replaced_version_stay(patch: pytest.MonkeyPatch) -> None:
    reap = Serving.reap

    def leaves_them(self: Serving) -> None:
        class Forgotten(dict):  # type: ignore[type-arg]
            def pop(self, key: Any) -> Any:  # type: ignore[override]
                class Still:
                    def close(self) -> None:
                        return None

                super().pop(key)
                return Still()

        self._workers = Forgotten(self._workers)
        reap(self)

    patch.setattr(Serving, "reap", leaves_them)


@bug("was answered by", "queue counts", "never ended", "still held")
def the_oldest_version_is_elected(patch: pytest.MonkeyPatch) -> None:
    elect = ServableTable._elect

    def backwards(self: ServableTable, name: str) -> None:
        elect(self, name)
        mine = sorted(self.of(name), key=lambda one: int(one.version))
        if mine:
            self._ready = {**self._ready, (name, ""): mine[0]}

    patch.setattr(ServableTable, "_elect", backwards)


@bug("refused () with", "was refused", "still held", "was answered by")
def the_old_version_keeps_its_name(patch: pytest.MonkeyPatch) -> None:
    put = ServableTable.put

    def only_new_ones(self: ServableTable, servable: ServableVersion) -> ServableVersion | None:
        before = self._ready
        replaced = put(self, servable)
        if replaced is not None:
            self._ready = before
        return replaced

    patch.setattr(ServableTable, "put", only_new_ones)


@bug("still held")
def a_cancelled_call_keeps_its_handle(patch: pytest.MonkeyPatch) -> None:
    call = Dispatch.__call__

    async def leaks(self: Dispatch, routed: Any) -> Any:
        try:
            return await call(self, routed)
        except BaseException as error:
            if type(error).__name__ == "CallCancelled":
                routed.servable.handles += 1
            raise

    patch.setattr(Dispatch, "__call__", leaks)


@bug("fell from", "count anew", "is counted by", "are not")
def a_reload_counts_anew(patch: pytest.MonkeyPatch) -> None:
    lane = Metrics.lane

    def anew(self: Metrics, model: str, version: str) -> Any:
        self._lanes.pop((model, version), None)
        return lane(self, model, version)

    patch.setattr(Metrics, "lane", anew)


@bug("fell from")
def what_is_retired_is_not_counted_any_more(patch: pytest.MonkeyPatch) -> None:
    retire = Metrics.retire

    def forgets(self: Metrics, model: str, version: str) -> None:
        retire(self, model, version)
        if (model, version) in self._retired:
            del self._retired[model, version], self._lanes[model, version]

    patch.setattr(Metrics, "retire", forgets)


@bug("was taken in after the close")
def what_arrives_after_the_close_is_served(patch: pytest.MonkeyPatch) -> None:
    swap_in = Serving.swap_in

    def forgets(self: Serving, model: LoadedModel, on_replaced_gone: Callable[[], None]) -> None:
        self._closed = False
        swap_in(self, model, on_replaced_gone)

    patch.setattr(Serving, "swap_in", forgets)


# -- several workers ------------------------------------------------------------------------------


@bug("the workers serve")
def a_restarted_worker_does_not_catch_up(patch: pytest.MonkeyPatch) -> None:
    async def stays(self: LocalControl, served: Mapping[str, list[str]]) -> None:
        return None

    patch.setattr(LocalControl, "catch_up", stays)


@bug("the workers serve")
def only_numbers_are_caught_up_with(patch: pytest.MonkeyPatch) -> None:
    exactly = LocalControl._prepare_exactly

    def unless_there(self: LocalControl, versions: list[tuple[str, str]]) -> Any:
        have = {(one.name, one.version) for one in self._state.loaded}
        return exactly(self, [one for one in versions if one not in have])

    patch.setattr(LocalControl, "_prepare_exactly", unless_there)


@bug("but worker", "the workers serve")
def only_the_first_worker_commits(patch: pytest.MonkeyPatch) -> None:
    ask_all = Spokesman._ask_all

    async def one(self: Spokesman, method: str, value: Any = None, **how: Any) -> Any:
        if method == "commit":
            serving = [seat for seat in self._seats if seat.serving]
            return [(seat, await seat.ask(method, timeout_s=60.0)) for seat in serving[:1]]
        return await ask_all(self, method, value, **how)

    patch.setattr(Spokesman, "_ask_all", one)


@bug("a connection waits at seat")
def connections_of_the_dead_are_left_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Orphanage, "watch", lambda self, empty: None)


@bug("got no connection although somebody serves")
def connections_of_the_dead_are_dropped(patch: pytest.MonkeyPatch) -> None:
    def drops(self: Orphanage, protocol: str, listener: Any) -> None:
        accepted, _ = listener.accept()
        accepted.__exit__()

    patch.setattr(Orphanage, "_accept", drops)


@bug("fell from")
def the_dead_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    merge = merge_families

    def living_only(
        workers: Iterable[tuple[str, list[Family]]], departed: Iterable[Family] = ()
    ) -> list[Family]:
        return merge(workers)

    patch.setattr(spokesman, "merge_families", living_only)
