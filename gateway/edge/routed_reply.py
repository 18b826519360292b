"""What a reply says of how its request was routed, where a plan is in force: the same on both wires.

Decides names and order. All but the prediction's id is the same for many replies, so it is written once and kept. It
must never say what the route did not: arm, id and reason come from there.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.messages import Assignment, Parameters

MAX_KNOWN = 256
_SOME_ID = "0" * 36
"""Stands where the id will: a UUID always has this length."""


def told(
    assignment: Assignment, prediction_id: str, parameters: Parameters | None = None
) -> Parameters:
    """All that the reply says besides tensors: how it was routed, and then what its ``parameters`` say."""
    said: Parameters = {"prediction_id": prediction_id, "arm": assignment.arm}
    if assignment.assigned_by:
        said["assigned_by"] = assignment.assigned_by
    if parameters is not None:
        said |= parameters
    return said


class RoutedReplies:
    """What stands around the id of a reply that says nothing but how it was routed, as one wire writes it."""

    __slots__ = ("_write", "known")

    def __init__(self, write: Callable[[Parameters], bytes]) -> None:
        self._write = write
        self.known: dict[Assignment, tuple[bytes, bytes]] = {}
        """Look here first: what ``around`` has answered."""

    def around(self, assignment: Assignment) -> tuple[bytes, bytes]:
        """The bytes before the prediction's id, and those behind it."""
        if len(self.known) >= MAX_KNOWN:
            self.known.clear()  # each plan has its own
        before, _, after = self._write(told(assignment, _SOME_ID)).partition(_SOME_ID.encode())
        self.known[assignment] = before, after
        return before, after
