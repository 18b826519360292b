"""The rollout as the admin port shows it: where it is, what has changed, what copies have shown.

Decides which of its figures the demo reads. It must never change anything: that is for ``headrace rollout``.
"""

from __future__ import annotations

import http.client

import msgspec

from examples.flights.bundle import MODEL_NAME
from examples.flights.callers import LIMIT_S, UnexpectedAnswerError

PATH = f"/v2/rollouts/{MODEL_NAME}/status"
ENDED = frozenset({"promoted", "rolled_back", "aborted", "holding"})


class Change(msgspec.Struct, frozen=True):
    """An entry of the history; ``at_s`` in seconds since 1970."""

    at_s: float
    revision: int
    event: str
    to: str
    reason: str


class Step(msgspec.Struct, frozen=True):
    """A weight that the candidate gets."""

    percent: float


class PlanSeen(msgspec.Struct, frozen=True):
    """The plan; ``step`` from 0, and -1 before the first."""

    revision: int
    began_revision: int
    state: str
    champion: str
    candidate: str
    step: int
    steps: tuple[Step, ...]
    history: tuple[Change, ...]

    def changes(self) -> tuple[Change, ...]:
        """Of this plan alone, the oldest first."""
        return tuple(one for one in self.history if one.revision >= self.began_revision)


class Figure(msgspec.Struct, frozen=True):
    """A share of compared answers, and the same of the champion against itself; None: not measured."""

    value: float | None = None
    floor: float | None = None


class Scores(msgspec.Struct, frozen=True):
    """Candidate's chance less the champion's, for the same requests."""

    pairs: int
    mean: float


class Copies(msgspec.Struct, frozen=True):
    """What comparing the answers to copies has shown of a version."""

    version: str
    percent: float = 0.0
    answers: int = 0
    failed: int = 0
    differing: Figure | None = None
    flipped: Figure | None = None
    scores: Scores | None = None


class Decision(msgspec.Struct, frozen=True):
    """What the controller says of now."""

    reason: str


class Seen(msgspec.Struct, frozen=True):
    """One look."""

    plan: PlanSeen
    decision: Decision
    samples: int = 0
    """Of the candidate in this step; before the first, compared copies."""
    shadows: tuple[Copies, ...] = ()


def look(address: str) -> Seen:
    """Ask the admin port at ``address`` (host:port) once. Raises ``UnexpectedAnswerError`` and ``OSError``."""
    connection = http.client.HTTPConnection(address, timeout=LIMIT_S)
    try:
        connection.request("GET", PATH)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise UnexpectedAnswerError(f"HTTP {answer.status} for {PATH}: {body[:500]!r}")
    try:
        return msgspec.json.decode(body, type=Seen)
    except msgspec.DecodeError as error:
        raise UnexpectedAnswerError(f"{PATH} answers what cannot be read: {error}") from error
