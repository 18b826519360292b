"""Which versions are served, kept from what the control tells the gateway, and what becomes of those that leave.

Decides who must answer a call, and whether a version left as it should: after its last caller, once, with nothing of it
left behind. It stands between the control and the gateway's own ``Serving`` and must never look into its table.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast
from weakref import ReferenceType, ref

from backends.manager import LoadedModel
from gateway.core.statistics import VersionStatistics
from gateway.messages import ModelStatus
from gateway.serving import Serving
from gateway.supervisor.merge import families_of
from gateway.telemetry.metrics import LaneMetrics
from tests.sim.lane_book import LaneBook
from tests.sim.metrics_check import NeverBackwards
from tests.sim.scripted_model import ScriptedModel
from tests.sim.virtual_worker import VirtualWorker

if TYPE_CHECKING:
    from gateway.core.servables import ServableVersion

MakeBook = Callable[[ScriptedModel, VirtualWorker], LaneBook]


class Roster:
    """The versions of one process; fills the port ``Swapper`` of the control."""

    def __init__(
        self,
        serving: Serving,
        workers: list[VirtualWorker],
        make_book: MakeBook,
        complain: Callable[[str], None],
    ) -> None:
        self.lanes: list[LaneBook] = []
        self.past: list[LaneBook] = []
        """Those that are gone."""
        self.states: dict[tuple[str, str], str] = {}
        """Which state of its files each served version was loaded from."""
        self.unloading: list[str] = []
        """Models that may be without any version now."""
        self.is_served = True
        """Callers come: a model may not be left without versions."""
        self.counters = NeverBackwards()
        self._serving = serving
        self._workers = workers
        self._make_book = make_book
        self._wrong = complain
        self._served: dict[tuple[str, str], LaneBook] = {}
        self._traces: list[tuple[LaneBook, list[ReferenceType[object]]]] = []

    def find(self, model: str, version: str) -> LaneBook | None:
        """Who must answer: the version that is asked for, or the newest."""
        if version:
            return self._served.get((model, version))
        mine = [book for key, book in self._served.items() if key[0] == model]
        return max(mine, key=lambda one: int(one.plan.version), default=None)

    def open(self, models: Iterable[LoadedModel]) -> None:
        """Those that ``Serving`` was made with."""
        lanes = zip(models, self._serving.lanes.values(), self._workers, strict=True)
        for (model, lane, worker), meters in zip(lanes, self._serving.metrics.lanes, strict=True):
            self._enlist(model, worker).lane = lane
            self._served[model.name, model.version].meters = meters

    def _enlist(self, model: LoadedModel, worker: VirtualWorker) -> LaneBook:
        backend = model.backend
        assert isinstance(backend, ScriptedModel)
        book = self._make_book(backend, worker)
        backend.witness = worker.witness = book
        self.lanes.append(book)
        self._served[model.name, model.version] = book
        self.states[model.name, model.version] = model.fingerprint
        self._traces.append((book, [ref(backend)]))
        return book

    # -- the port ---------------------------------------------------------------------------------

    def swap_in(self, model: LoadedModel, on_replaced_gone: Callable[[], None]) -> None:
        replaced = self._served.pop((model.name, model.version), None)
        self._serving.swap_in(model, self._leaves(replaced, on_replaced_gone))
        book = self._enlist(model, self._workers[-1])
        book.lane = next(reversed(self._serving.lanes.values()))
        counted = [
            one for one in self._serving.metrics.lanes if one.labels == (model.name, model.version)
        ]
        book.meters = cast("LaneMetrics", getattr(book.lane, "_meters"))  # noqa: B009
        if counted != [book.meters]:
            self._wrong(f"{book.name} is counted by {len(counted)} others")
        self._look_at_counters()

    def retire(self, name: str, version: str, on_gone: Callable[[], None]) -> None:
        leaving = self._served.pop((name, version), None)
        self.states.pop((name, version), None)
        left_alone = all(model != name for model, _ in self._served)
        if left_alone and self.is_served and name not in self.unloading:
            self._wrong(f"nothing serves model {name!r} any more, and nobody asked for that")
        self._serving.retire(name, version, self._leaves(leaving, on_gone))
        self._look_at_counters()

    def set_statuses(self, statuses: Iterable[ModelStatus]) -> None:
        self._serving.set_statuses(statuses)

    def statistics(self) -> list[VersionStatistics]:
        return self._serving.statistics()

    # -- leaving ----------------------------------------------------------------------------------

    def _leaves(self, book: LaneBook | None, on_gone: Callable[[], None]) -> Callable[[], None]:
        if book is None:
            return on_gone
        book.retired = True
        servable = cast("ServableVersion", book.lane.servable)
        self._traces.append((book, [ref(book.lane), ref(servable)]))

        def gone() -> None:
            self._is_gone(book)
            on_gone()

        return gone

    def _is_gone(self, book: LaneBook) -> None:
        book.gone += 1
        if book.gone > 1:
            self._wrong(f"{book.name} is gone for the {book.gone}. time")
            return
        if book.inside or book.held or not book.is_idle:
            self._wrong(f"{book.name} is gone with {book.inside} (+{book.held}) calls inside")
        if book.worker.closed != 1:
            self._wrong(f"{book.name} is gone, its worker was closed {book.worker.closed} times")
        self.lanes.remove(book)
        self.past.append(book)
        del book.lane

    def _look_at_counters(self) -> None:
        problem = self.counters.problem(families_of(self._serving.metrics))
        if problem:
            self._wrong(f"metrics: {problem}")

    def check_end(self) -> None:
        """When nothing happens any more: what has left is gone, and what is gone left nothing behind."""
        self._look_at_counters()
        for book in self.lanes:
            if book.retired:
                self._wrong(f"{book.name} was retired and never left")
        for book in self.past:
            if book.worker.closed != 1:
                self._wrong(f"the worker of {book.name} was closed {book.worker.closed} times")

    def check_left(self) -> None:
        """Of versions that went a while ago nothing is left."""
        pending, self._traces = self._traces, []
        left = [(book, traces) for book, traces in pending if book.gone]
        self._traces = [(book, traces) for book, traces in pending if not book.gone]
        if any(trace() is not None for _, traces in left for trace in traces):
            gc.collect()
        for book, traces in left:
            for trace in traces:
                if (one := trace()) is not None:
                    self._wrong(f"{book.name} left, but something still holds its {type(one)}")
