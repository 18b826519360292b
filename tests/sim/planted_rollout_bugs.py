"""Bugs to plant in the controller's loop: each is one small change, with the words of a complaint that must appear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rollout import controller, driver, evidence_gathering
from rollout.change_log import ChangeLog
from rollout.driver import Driver
from rollout.leadership import Leadership
from rollout.plan import Event
from tests.sim.rollout_book import BookedStore

Plant = Callable[[pytest.MonkeyPatch], None]
ROLLOUT_BUGS: dict[str, tuple[Plant, tuple[str, ...], str]] = {}


def bug(*looks_like: str, more_of: str = "") -> Callable[[Plant], Plant]:
    """Register one; ``more_of`` is the fault without which it does no harm."""

    def register(plant: Plant) -> Plant:
        ROLLOUT_BUGS[plant.__name__] = (plant, looks_like, more_of)
        return plant

    return register


@bug("while changes could not be recorded")
def moves_forward_without_a_log(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Driver, stored: Any) -> str:
        return ""

    patch.setattr(Driver, "_against_forward", nothing)


@bug("on incomplete evidence", more_of="_worker_dies")
def takes_what_is_left_for_everything(patch: pytest.MonkeyPatch) -> None:
    gather = evidence_gathering.gather
    patch.setattr(
        driver,
        "gather",
        lambda *all_of: msgspec.structs.replace(gather(*all_of), is_complete=True),
    )


@bug("has not been warm for", "acts on an old plan", more_of="_unload")
def asks_one_gateway_for_all(patch: pytest.MonkeyPatch) -> None:
    heard = evidence_gathering.heard
    patch.setattr(driver, "heard", lambda *all_of: heard(*all_of)[:1])


@bug("acts on an old plan", more_of="_worker_stuck")
def minds_no_silence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(controller, "_doubts_about", lambda *all_of: [])


@bug("is not in the audit log", more_of="_kill_driver")
def records_only_what_it_wrote_itself(patch: pytest.MonkeyPatch) -> None:
    record = ChangeLog.record

    def own(self: ChangeLog, stored: Any, before: Any, details: Any) -> int:
        return record(self, stored, before, details) if before is not None else 0

    patch.setattr(ChangeLog, "record", own)
    patch.setattr(ChangeLog, "is_recorded", lambda self, stored: False)
    patch.setattr(Driver, "_against_forward", _says_nothing)


@bug("in the audit log twice")
def reads_no_record_of_others(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ChangeLog, "_note", lambda self, record: None)


@bug("after it had lost the lease")
def never_looks_at_its_lease(patch: pytest.MonkeyPatch) -> None:
    async def fine(self: Leadership, *, now: bool = False) -> None: ...

    patch.setattr(Leadership, "hold", fine)


@bug("wrote with fence")
def writes_like_a_person(patch: pytest.MonkeyPatch) -> None:
    write_by = BookedStore.write_by

    async def as_a_person(self: BookedStore, writer: str, *rest: Any) -> Any:
        plan, expected, _ = rest
        return await write_by(self, writer, plan, expected, 0)

    patch.setattr(BookedStore, "write_by", as_a_person)


@bug("does harm and nobody answers", more_of="_log_full")
def waits_for_the_log_with_harm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(driver, "_FORWARD", frozenset(Event))


@bug("does harm and nobody answers", "died of CorruptPlanError", more_of="_corrupt")
def one_corrupt_plan_stops_all(patch: pytest.MonkeyPatch) -> None:
    async def bare(self: Driver, model: str) -> None:
        self._status.decided(model, await self._drive(model))

    patch.setattr(Driver, "_look_at", bare)


@bug("gave the weights", "no split", "plan with faults")
def gives_the_candidate_a_little_more(patch: pytest.MonkeyPatch) -> None:
    apply = controller.apply

    def generous(*all_of: Any) -> Any:
        found = apply(*all_of)
        if not hasattr(found, "arms"):
            return found
        arms = found.arms[:-2] + tuple(
            msgspec.structs.replace(arm, intervals=other.intervals)
            for arm, other in zip(found.arms[-2:], found.arms[:-3:-1], strict=True)
        )
        return msgspec.structs.replace(found, arms=arms)

    patch.setattr(driver, "apply", generous)


async def _says_nothing(self: Driver, stored: Any) -> str:
    return ""
