"""What the travellers' calls say about a rollout: how it shared them out, and whom it did harm.

Decides what sampling error is, and what counts as going back. Pure: calls come in, figures come out, and a claim that
does not hold raises ``WrongAnswerError``. It must never leave a call out because it does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from examples.flights.claims import WrongAnswerError
from examples.flights.traffic import Call

SIGMAS = 4.5
"""How far a share may be from its plan: chance alone goes further once in 150,000 times."""
SETTLING_S = 2.0
"""From the change of a plan until every gateway certainly acts on it: twice the time between two looks at the store."""


@dataclass(frozen=True)
class Share:
    """What a version had of some calls, and of the travellers who made them."""

    planned: float
    calls: int
    travellers: int
    of_calls: float
    of_travellers: float
    error: float
    """One standard deviation of ``of_travellers``, if they are drawn as planned."""

    @property
    def is_as_planned(self) -> bool:
        """Whether chance alone explains the difference; half a traveller is never too many."""
        allowed = SIGMAS * self.error + 0.5 / max(1, self.travellers)
        return abs(self.of_travellers - self.planned) <= allowed


@dataclass(frozen=True)
class Harm:
    """What a bad version did before it was gone. Times in seconds from its first answer."""

    answers: int
    """That it gave."""
    odd: int
    """Of them, no probabilities."""
    failed: int
    """Calls without an answer, whoever should have given it."""
    travellers: int
    """Who had at least one odd answer, or none."""
    last_s: float
    """Its last answer's beginning."""
    calls: int
    """Of everybody, from its first answer to its last."""


def between(calls: Sequence[Call], from_s: float, until_s: float) -> list[Call]:
    """Those that began and ended in this time, in seconds since 1970."""
    return [one for one in calls if one.began_s >= from_s and one.ended_s <= until_s]


def share_of(calls: Sequence[Call], version: int, planned: float) -> Share:
    """``planned``: from 0 to 1. A traveller who met the version at all is counted as its own."""
    everybody = {one.traveller for one in calls}
    met = {one.traveller for one in calls if one.version == version}
    answers = sum(one.version == version for one in calls)
    people = max(1, len(everybody))
    return Share(
        planned,
        len(calls),
        len(everybody),
        answers / max(1, len(calls)),
        len(met) / people,
        math.sqrt(planned * (1 - planned) / people),
    )


def check_share(share: Share, what: str) -> None:
    """Raises ``WrongAnswerError`` for one that chance does not explain, and for one of nothing."""
    if not share.calls:
        raise WrongAnswerError(f"{what}: nobody asked anything in that time")
    if not share.is_as_planned:
        raise WrongAnswerError(
            f"{what}: {share.planned:.1%} was planned, and {share.of_travellers:.1%} of {share.travellers} travellers "
            f"had it; chance explains ±{SIGMAS * share.error:.1%}"
        )


def check_answered(calls: Sequence[Call]) -> None:
    """Every call has an answer, and it is a probability."""
    for call in calls:
        if call.failure:
            raise WrongAnswerError(f"a call over {call.front} failed: {call.failure}")
        if call.is_odd:
            raise WrongAnswerError(f"version {call.version} answered {call.chance} for a chance")


def check_forward(calls: Sequence[Call]) -> int:
    """No traveller ever had an older version after a newer one; how many travellers had both.

    ``calls`` in the order of each traveller.
    """
    newest: dict[int, int] = {}
    moved: set[int] = set()
    for call in calls:
        if call.failure:
            continue
        before = newest.setdefault(call.traveller, call.version)
        if call.version < before:
            raise WrongAnswerError(
                f"traveller {call.traveller} was answered by version {before} and then by {call.version}"
            )
        if call.version > before:
            moved.add(call.traveller)
            newest[call.traveller] = call.version
    return len(moved)


def check_all_by(calls: Sequence[Call], version: int, least: int) -> None:
    """All of these calls, and at least ``least``, were answered by ``version``."""
    check_answered(calls)
    if len(calls) < least:
        raise WrongAnswerError(
            f"{len(calls)} calls are too few to say who answers: {least} at least"
        )
    others = sorted({one.version for one in calls} - {version})
    if others:
        raise WrongAnswerError(f"version {others[0]} still answers, where only {version} should")


def harm_of(calls: Sequence[Call], version: int) -> Harm:
    """What ``version`` did. Raises ``WrongAnswerError`` if it never answered anybody."""
    own = [one for one in calls if one.version == version]
    if not own:
        raise WrongAnswerError(f"version {version} never answered anybody")
    first_s, last_s = own[0].began_s, own[-1].began_s
    hurt = {one.traveller for one in calls if one.failure or one.is_odd}
    return Harm(
        answers=len(own),
        odd=sum(one.is_odd for one in own),
        failed=sum(bool(one.failure) for one in calls),
        travellers=len(hurt),
        last_s=last_s - first_s,
        calls=sum(first_s <= one.began_s <= last_s for one in calls),
    )
