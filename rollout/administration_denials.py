"""Why a change was not made, or not as it should be, for whoever words it on a wire.

Decides the kinds; the sentences are of those who deny. It must never hold more than the caller may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rollout.ports import Stored

DenialKind = Literal[
    "unknown_model",  # there is no plan
    "faulty",  # the proposal has faults
    "invalid",  # anything else that the caller should have written differently
    "forbidden",  # this author may not
    "state",  # not from this state
    "not_warm",
    "stale",  # the plan is not the one that the caller means; ``current`` is
    "unconditional",  # the caller does not say which plan to replace
    "log_unusable",  # nothing was written, as it could not be recorded
    "not_recorded",  # the change is in force, and not in the audit log
    "outcome_unknown",  # the store went away amid the write
]


class DeniedError(Exception):
    """A change that was not made, or not as it should be; the message is a sentence for the caller."""

    def __init__(
        self,
        kind: DenialKind,
        sentence: str,
        *,
        current: Stored | None = None,
        faults: Sequence[str] = (),
    ) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence
        self.current = current
        """The plan that is in force, where that matters."""
        self.faults = tuple(faults)
