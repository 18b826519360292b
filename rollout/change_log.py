"""The controller's changes in the audit log: each once, in order, also when a process died between plan and log.

The plan is written first, and its history says what was done; so what belongs into the log can be told at any time by
whoever reads both. Decides which changes are missing there. It must never change a plan, nor append a change that a
record names already.

A change is known by its model, its revision and its time: a plan that was deleted and submitted anew has other times.
Changes are recorded in their order, so that everything before a recorded one is recorded too. Only the last
``MAX_TAIL_RECORDS`` records are read; if a model is in none of them, what its plan's history says from before their
time is taken for recorded.

Every process has the log of its own ``state_dir``: controllers on several machines have one each, and each has all
changes, those of the others as recorded late. Everything here waits for the disk: call it in a thread, one at a time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from foundation.audit import AuditError, AuditLog, AuditRecord, DamagedLogError, digest
from foundation.audit_file import Head, opened
from foundation.audit_record import Line
from foundation.audit_verifying import MAX_LAST_RECORDS, last_lines
from rollout.plan import MAX_HISTORY_ENTRIES, HistoryEntry
from rollout.ports import Stored

AUTHOR = "controller"
"""Who the controller is, in histories and in the log; nobody else may have this name."""
ACTIONS = "rollout."
"""What the actions of changes begin with; the event follows."""
MAX_TAIL_RECORDS = MAX_LAST_RECORDS
LOCK_TIMEOUT_S = 1.0
"""For the log's lock: a rollback of another model waits meanwhile."""

Tail = Callable[[int], Iterable[AuditRecord]]
"""The last records, at most so many, the oldest first. Raises ``AuditError``."""


class Appending(Protocol):
    """What is needed of ``foundation.audit.AuditLog``."""

    def append(
        self,
        *,
        author: str,
        role: str,
        action: str,
        target: str,
        reason: str = "",
        before_digest: str = "",
        after_digest: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> AuditRecord: ...

    def head(self) -> Head: ...


class _Key(NamedTuple):
    """Which change of a model."""

    revision: int
    at_s: float


class ChangeLog:
    """The audit log, as the controller writes it. ``tail`` reads the same log that ``audit`` appends to.

    ``probe`` raises ``AuditError`` where an append would fail, as far as that can be told without one.
    """

    def __init__(
        self, audit: Appending, tail: Tail, probe: Callable[[], None] = lambda: None
    ) -> None:
        self._audit = audit
        self._tail = tail
        self._probe = probe
        self._recorded: dict[str, deque[_Key]] = {}
        self._read_to = -1
        """The last record that was read; -1 before the first look."""
        self._known_since_s = float("-inf")
        """Earlier changes are in records that nobody has read."""

    def is_recorded(self, stored: Stored) -> bool:
        """Whether nothing is missing, as far as is known without a look at the disk; False before the first look."""
        return self._read_to >= 0 and not any(True for _ in self._missing(stored))

    def catch_up(self) -> None:
        """Read what was appended since the last look. Raises ``AuditError``."""
        head = self._audit.head()
        if head.seq < self._read_to:
            raise DamagedLogError(
                f"the audit log ends with record {head.seq}, and this process has seen record {self._read_to}: it was "
                "cut or replaced; bring it back, or begin a new one and restart"
            )
        if head.seq > self._read_to:
            self._read_to = self._read(head.seq)

    def _read(self, last_seq: int) -> int:
        """Note the records after those that are known, and return the last one's number."""
        first_seq = max(self._read_to, 0) + 1
        if last_seq < first_seq:
            return last_seq
        # One more line than records: the last one may be torn.
        wanted = min(last_seq - first_seq + 2, MAX_TAIL_RECORDS)
        records = list(self._tail(wanted))
        if not records:
            raise AuditError("no line of the audit log can be read: verify it, and begin a new one")
        if records[0].seq > first_seq:
            if records[-1].seq > last_seq and wanted < MAX_TAIL_RECORDS:
                return self._read(records[-1].seq)  # it grew between the two looks
            self._recorded, self._known_since_s = {}, records[0].at.timestamp()
        for record in records:
            self._note(record)
        return records[-1].seq

    def must_take_more(self) -> None:
        """Raises ``AuditError`` where the next change could not be recorded, as far as that can be told."""
        self.catch_up()
        self._probe()

    def record(self, stored: Stored, before: Stored | None, details: Mapping[str, Any]) -> int:
        """Append the changes of ``stored`` that are missing, and return how many they were. Raises ``AuditError``.

        ``before``: the plan that the last change was made of, and ``details`` more about that one, where this process
        has just made it.
        """
        self.catch_up()
        missing = list(self._missing(stored))
        for entry in missing:
            is_ours = before is not None and entry.revision == before.plan.revision + 1
            is_last = entry.revision == stored.plan.revision
            record = self._audit.append(
                author=AUTHOR,
                role=AUTHOR,
                action=ACTIONS + entry.event,
                target=stored.plan.model,
                reason=entry.reason,
                before_digest=digest(before.document) if before is not None and is_ours else "",
                after_digest=digest(stored.document) if is_last else "",
                details={
                    "revision": entry.revision,
                    "at_s": entry.at_s,
                    "from": entry.source,
                    "to": entry.target,
                    **(details if is_ours else {"is_late": True}),
                },
            )
            self._keep(stored.plan.model, _Key(entry.revision, entry.at_s))
            if record.seq == self._read_to + 1:
                self._read_to = record.seq
        return len(missing)

    def _missing(self, stored: Stored) -> Iterator[HistoryEntry]:
        recorded = self._recorded.get(stored.plan.model, ())
        ours = [entry for entry in stored.plan.history if entry.author == AUTHOR]
        last = max(
            (at for at, one in enumerate(ours) if _Key(one.revision, one.at_s) in recorded),
            default=-1,
        )
        for entry in ours[last + 1 :]:
            if last >= 0 or entry.at_s >= self._known_since_s:
                yield entry

    def _note(self, record: AuditRecord) -> None:
        revision, at_s = record.details.get("revision"), record.details.get("at_s")
        if (
            record.author == record.role == AUTHOR
            and record.action.startswith(ACTIONS)
            and isinstance(revision, int)
            and isinstance(at_s, int | float)
        ):
            self._keep(record.target, _Key(revision, float(at_s)))

    def _keep(self, model: str, key: _Key) -> None:
        known = self._recorded.setdefault(model, deque(maxlen=MAX_HISTORY_ENTRIES))
        if key not in known:
            known.append(key)


def open_change_log(path: Path) -> ChangeLog:
    """The controller's side of the audit log at ``path``; nothing is read or made yet."""
    audit = AuditLog(path, lock_timeout_s=LOCK_TIMEOUT_S)
    return ChangeLog(audit, lambda count: _last_records(path, count), lambda: _probe(path))


def _probe(path: Path) -> None:
    try:
        with opened(path, os.O_RDWR | os.O_APPEND):
            pass
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise AuditError(
                f"{path}: its folder is not there; make it first: mkdir -p {path.parent}"
            ) from None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise AuditError(f"{path}: its folder cannot be written; let this user write") from None


def _last_records(path: Path, count: int) -> Iterator[AuditRecord]:
    """Without lines that are broken: that the log is whole is for ``foundation.audit_verifying`` to tell."""
    for line in last_lines(path, count):
        if isinstance(line.content, Line):
            yield line.content.record
