"""What a controller shows of itself: whether it leads, what it thinks of every model, and what troubles it.

Decides what is logged, which is each change, and each trouble once when it begins and once when it ends, however often
it is met in between. It must never decide anything about a rollout.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from typing import Literal

import msgspec

from rollout.controller import Decision
from rollout.plan import Event, Plan

MAX_SENTENCE_CHARACTERS = 2000
STORE = "store"
"""What troubles about the store, about the audit log, and about there being too much, are listed under."""
AUDIT_LOG = "audit log"
TOO_MANY = "models"

Role = Literal["", "leads", "stands by"]

_log = logging.getLogger("rollout.driver")


class Watched(msgspec.Struct, frozen=True):
    """What the controller last thought of one model."""

    action: Literal["nothing", "hold", "fire"]
    words: str


class DriverSnapshot(msgspec.Struct, frozen=True):
    """One moment of a controller; the counts are since its start."""

    owner: str
    role: Role
    """Which of the two it was told to be last; empty before it could ask, and after it has lost the lease."""
    is_leader: bool
    fence: int
    """Of its lease; 0 while it stands by."""
    last_tick_s: float | None
    """When it last looked at every plan, by the wall clock; None before the first time."""
    models: dict[str, Watched]
    troubles: dict[str, str]
    """What is wrong now: about the store, the audit log, or ``model NAME``."""
    changes: dict[str, int]
    """Written, by event."""
    ticks: int
    holds: int
    """How often a model was held back by something that waiting alone may not cure."""
    troubles_met: int
    """How many troubles have begun."""


class DriverStatus:
    """The mutable side of ``DriverSnapshot``, of one driver on one loop."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._role: Role = ""
        self._models: dict[str, Watched] = {}
        self._troubles: dict[str, tuple[str, str]] = {}
        self._changes: Counter[str] = Counter()
        self._ticks = self._holds = self._troubles_met = 0
        self._last_tick_s: float | None = None

    def snapshot(self, fence: int) -> DriverSnapshot:
        """What is known now."""
        return DriverSnapshot(
            owner=self._owner,
            role=self._role,
            is_leader=fence > 0,
            fence=fence,
            last_tick_s=self._last_tick_s,
            models=dict(self._models),
            troubles={scope: sentence for scope, (_, sentence) in self._troubles.items()},
            changes=dict(self._changes),
            ticks=self._ticks,
            holds=self._holds,
            troubles_met=self._troubles_met,
        )

    def leads(self, fence: int) -> None:
        """It has the lease."""
        if self._role != "leads":
            self._role = "leads"
            _log.info("this controller leads", extra={"owner": self._owner, "fence": fence})

    def stands_by(self) -> None:
        """Another one has it; what this one thought of the models is of no interest any more."""
        self._models.clear()
        for scope in [scope for scope in self._troubles if scope != STORE]:
            del self._troubles[scope]
        if self._role != "stands by":
            self._role = "stands by"
            _log.info("this controller stands by: another one leads", extra={"owner": self._owner})

    def lost(self, why: str) -> None:
        """It had the lease, and has stopped acting."""
        self._role = ""
        _log.warning("this controller has stopped acting: %s", why, extra={"owner": self._owner})

    def ticked(self, now_s: float, models: Collection[str]) -> None:
        """Every plan was looked at."""
        self._ticks += 1
        self._last_tick_s = now_s
        gone = [model for model in self._models if model not in models]
        for model in gone:
            del self._models[model]
        about = {about_model(model) for model in models}
        for scope in [one for one in self._troubles if one.startswith("model ")]:
            if scope not in about:
                del self._troubles[scope]

    def decided(self, model: str, decision: Decision) -> None:
        """What it thinks of a model, after a look without trouble."""
        before = self._models.get(model)
        self._models[model] = Watched(decision.action, decision.reason[:MAX_SENTENCE_CHARACTERS])
        if decision.action == "hold":
            self._holds += 1
            if before is None or before.action != "hold":
                _log.warning("the rollout of model %s is held: %s", model, decision.reason)

    def changed(self, plan: Plan, event: Event) -> None:
        """A change was written."""
        self._changes[event.value] += 1
        level = logging.INFO
        if event in {Event.BREACH, Event.INCONCLUSIVE, Event.CANDIDATE_LOST}:
            level = logging.WARNING
        _log.log(
            level,
            "the rollout of model %s: %s, now %s at revision %d: %s",
            plan.model,
            event.value,
            plan.state.value,
            plan.revision,
            plan.reason,
        )

    def trouble(self, scope: str, error: Exception) -> None:
        """Something about ``scope`` went wrong; logged unless the same kind of trouble is there already."""
        kind = type(error).__name__
        sentence = (str(error) or kind)[:MAX_SENTENCE_CHARACTERS]
        before = self._troubles.get(scope)
        self._troubles[scope] = (kind, sentence)
        if before is None or before[0] != kind:
            self._troubles_met += 1
            is_ours = not isinstance(error, ValueError) and type(error).__module__ == "builtins"
            _log.error("%s: %s", scope, sentence, exc_info=error if is_ours else None)

    def well(self, scope: str) -> None:
        """Nothing is wrong with ``scope``."""
        if self._troubles.pop(scope, None):
            _log.info("%s: all is well again", scope)

    def sentence_of(self, scope: str) -> str:
        """What is wrong with it, or nothing."""
        return self._troubles.get(scope, ("", ""))[1]


def about_model(model: str) -> str:
    """The scope of a model's own troubles."""
    return f"model {model}"
