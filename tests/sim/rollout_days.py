"""Days drawn by a seed: what goes wrong when, and what people do meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rollout.plan import Event
from tests.sim.rollout_world import DAY_S, RECOVERY_S, SimDriver, World

PEOPLE = (
    (Event.PAUSE, 3), (Event.RESUME, 8), (Event.STEP, 3), (Event.PROMOTE, 1), (Event.ROLLBACK, 1),
    (Event.ABORT, 1), (Event.REPLACE, 4), (Event.START, 10),
)  # fmt: skip


class Day:
    """One day, and the time after it in which everything is well again. ``more_of``: a fault that is frequent."""

    def __init__(self, seed: int, more_of: str = "") -> None:
        self.world = world = World(seed)
        self.rng = rng = world.rng
        self.kinds: list[str] = []
        for _ in range(3):
            world.add_worker()
        world.run_for(2.5)
        for model in world.models:
            world.begin(model, shadowed=rng.random() < 0.3)
        world.run_for(2.0)
        self._sets_clocks = rng.random() < 0.4
        self._stands_still = rng.random() < 0.5
        for _ in range(2):
            self._add_driver()
        self._keep_going(world.now_s + DAY_S)
        for _ in range(rng.randrange(6, 16)):
            self._later(self._person)
        for _ in range(rng.randrange(4, 12)):
            self._later(rng.choice(self._faults()))
        for _ in range(6 if more_of else 0):
            self._later(getattr(self, more_of))

    def play(self) -> World:
        world = self.world
        world.run_for(DAY_S)
        self._heal()
        world.run_for(RECOVERY_S)
        world.store.book.look_at_the_log(world.audit.records)
        return world

    # -- what goes wrong -----------------------------------------------------------------------------

    def _faults(self) -> list[Callable[[], None]]:
        faults = [
            self._kill_driver, self._kill_driver, self._store_away, self._lose_lease, self._cut_off,
            self._worker_dies, self._worker_leaves, self._worker_stuck, self._worker_stuck, self._unload, self._harm,
            self._lose_reports, self._corrupt, self._log_full, self._log_full,
        ]  # fmt: skip
        return faults + [self._set_clocks] * 4 if self._sets_clocks else faults

    def _later(self, what: Callable[[], None]) -> None:
        self.world.loop.call_later(self.rng.uniform(0, DAY_S), what)

    def _for_a_while(self, back: Callable[[], None], most_s: float) -> None:
        self.world.loop.call_later(self.rng.uniform(0.5, most_s), back)

    def _add_driver(self) -> None:
        driver = self.world.add_driver()
        if self._stands_still:
            driver.before_step = self._stumble

    def _stumble(self, driver: SimDriver) -> float:
        return self.rng.uniform(0.1, 6.0) if self.rng.random() < 0.002 else 0.0

    def _alive(self) -> list[SimDriver]:
        return [one for one in self.world.drivers if one.is_alive]

    def _kill_driver(self) -> None:
        leading = [one for one in self._alive() if one.driver.snapshot().is_leader]
        if not (alive := self._alive()):
            return
        self.kinds.append("kill")
        self.world.disturb()
        victim = self.rng.choice(leading or alive)
        doomed = victim.steps + self.rng.randrange(60)

        def at_step(driver: SimDriver) -> float:
            if driver.steps >= doomed and driver.is_alive:
                driver.kill()
                self.world.disturb()
                self._for_a_while(self._add_driver, 8)
            return 0.0

        victim.before_step = at_step

    def _store_away(self) -> None:
        self.kinds.append("away")
        self.world.disturb()
        self.world.store.go_away()
        self._for_a_while(self._come_back, 15)

    def _come_back(self) -> None:
        self.world.disturb()
        self.world.store.come_back()

    def _lose_lease(self) -> None:
        self.kinds.append("lease")
        self.world.disturb()
        self.world.store._lease = None

    def _cut_off(self) -> None:
        if not (alive := self._alive()):
            return
        self.kinds.append("cut off")
        self.world.disturb()
        driver = self.rng.choice(alive)
        driver.is_cut_off = True

        def mend() -> None:
            self.world.disturb()
            driver.is_cut_off = False

        self._for_a_while(mend, 10)

    def _set_clocks(self) -> None:
        self.kinds.append("clock")
        jump_s = self.rng.choice([-40.0, -15.0, 5.0, 30.0, 3600.0])
        self.world.was_set_back = True
        clocks: list[Any] = [*self._alive(), *self.world.workers]
        self.rng.choice(clocks).wall_offset_s += jump_s

    def _worker_dies(self) -> None:
        self._end_worker("dies")

    def _worker_leaves(self) -> None:
        self._end_worker("leaves")

    def _end_worker(self, how: str) -> None:
        self.kinds.append(how)
        worker = self.rng.choice([one for one in self.world.workers if one.is_alive])
        (worker.die if how == "dies" else worker.leave)()
        self._for_a_while(self.world.add_worker, 5)

    def _worker_stuck(self) -> None:
        self.kinds.append("stuck")
        worker = self.rng.choice([one for one in self.world.workers if one.is_alive])
        worker.is_stuck = True
        self._for_a_while(lambda: setattr(worker, "is_stuck", False), 55)

    def _unload(self) -> None:
        self.kinds.append("unload")
        worker = self.rng.choice([one for one in self.world.workers if one.is_alive])
        worker.unload(self.rng.choice(self.world.models), self.rng.choice("45"))
        self._for_a_while(worker.load_everything, 60)

    def _harm(self) -> None:
        self.kinds.append("harm")
        model = self.rng.choice(self.world.models)
        rates = self.world.error_rates
        for version in "45":
            rates[model, version] = 0.2
        self._for_a_while(lambda: rates.update({(model, one): 0.002 for one in "45"}), 90)

    def _lose_reports(self) -> None:
        self.kinds.append("reports")
        # Those of the dead stay: what nobody writes again is missed by who saw it, and by no later controller.
        alive = {one.name for one in self.world.workers if one.is_alive}
        for reports in self.world.store._reports.values():
            for worker in alive & reports.keys():
                del reports[worker]

    def _corrupt(self) -> None:
        model = self.rng.choice(self.world.models)
        document = self.world.store.documents()[model]
        if not document.startswith(b"{"):
            return
        self.kinds.append("corrupt")
        self.world.disturb()
        self.world.store.put_document(model, b"?" + document)

        def mend() -> None:
            self.world.disturb()
            self.world.store.put_document(model, document)

        self._for_a_while(mend, 20)

    def _log_full(self) -> None:
        if self.world.audit.is_broken:
            return
        self.kinds.append("log")
        self.world.audit.is_broken = True
        self.world.log_broken_since_s = self.world.now_s
        self._for_a_while(self._log_well, 150)
        if self.rng.random() < 0.5:
            self.world.loop.call_later(3.0, self._harm)

    def _log_well(self) -> None:
        self.world.audit.is_broken = False
        self.world.log_broken_since_s = float("inf")

    def _person(self) -> None:
        events = [event for event, _ in PEOPLE]
        event = self.rng.choices(events, [weight for _, weight in PEOPLE])[0]
        model = self.rng.choice(self.world.models)
        self.world.act(model, event)
        if event is Event.REPLACE:
            self.world.loop.call_later(1.0, partial(self.world.act, model, Event.START))

    def _keep_going(self, until_s: float) -> None:
        """What is over is begun anew, and what stands goes on, so that there is always something to disturb."""
        world = self.world
        if world.now_s > until_s:
            return
        world.loop.call_later(self.rng.uniform(5, 15), partial(self._keep_going, until_s))
        for model in world.models:
            if self.rng.random() < 0.5:
                world.act(model, Event.RESUME)
            elif world.is_over(model):
                world.act(model, Event.REPLACE)
                world.loop.call_later(2.5, partial(world.act, model, Event.START))

    def _heal(self) -> None:
        world = self.world
        world.disturb()
        world.store.come_back()
        self._log_well()
        for key in world.error_rates:
            world.error_rates[key] = 0.002
        for worker in world.workers:
            worker.is_stuck = False
            worker.load_everything()
        for driver in world.drivers:
            driver.is_cut_off = False
            driver.before_step = lambda _: 0.0
        if not self._alive():
            self._add_driver()
