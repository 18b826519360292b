"""The start of a rollout: finds out what answers now, makes the proposal, and submits it over what was read.

Decides what becomes the champion where nobody names one, and that a running rollout is not replaced unasked. It must
never submit over a plan that it has not read.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

from headrace.command_line import refuse
from headrace.rollout_asking import RefusedError
from headrace.rollout_display import state_words
from headrace.rollout_options import Asking, note
from headrace.rollout_proposal import (
    RANDOM_SALT_HEX_DIGITS,
    Wishes,
    WrittenError,
    document_with,
    finished,
    read_document,
)
from rollout.plan import MAX_DOCUMENT_BYTES, UNDER_WAY, Plan, State, encode

_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


def document_in(file: Path) -> dict[str, Any]:
    """What a file proposes. Raises ``WrittenError``; a file that cannot be read ends the command."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        refuse(f"--file {file}: {error.strerror or error}")
    return read_document(content, str(file))


def submit(
    use: Asking,
    wishes: Wishes,
    document: dict[str, Any],
    *,
    reason: str | None,
    dry_run: bool,
    may_replace: bool,
) -> Plan:
    """The plan that was started, or would be. Raises ``WrittenError`` for what makes no rollout."""
    assert use.model is not None
    merged = document_with(use.model, wishes, document)
    use.read = _plan_there(use)
    if use.read is not None and use.read.state in UNDER_WAY and not may_replace:
        raise WrittenError(
            f"{use.model} has a rollout of version {use.read.candidate or '-'} that is {state_words(use.read)}: "
            f"look at it (headrace rollout status {use.model}), abort it, or give --replace to begin anew"
        )
    champion = "" if merged.get("champion") else _champion(use, str(merged.get("candidate", "")))
    proposal = finished(merged, champion, lambda: secrets.token_hex(RANDOM_SALT_HEX_DIGITS // 2))
    tried = proposal.candidate or ", ".join(one.version for one in proposal.shadows)
    return use.admin.propose(
        use.model,
        encode(proposal),
        revision=use.read.revision if use.read else None,
        reason=reason or f"roll out version {tried}",
        start=True,
        dry_run=dry_run,
    )


def start_draft(use: Asking, reason: str) -> Plan:
    """Start what was submitted before and never started. Raises ``WrittenError`` when there is no such thing."""
    assert use.model is not None
    use.read = _plan_there(use)
    if use.read is None or use.read.state is not State.DRAFT:
        has = f"a rollout that is {state_words(use.read)}" if use.read else "no rollout yet"
        raise WrittenError(
            f"{use.model} has {has}, and no draft to start: name the version to roll out with --to"
        )
    return use.admin.cause(use.model, "start", revision=use.read.revision, reason=reason)


def is_turned_off(error: RefusedError) -> bool:
    """Whether the port has no rollouts at all: it does not know the path."""
    return error.status == 404 and str(error).startswith("no such path")


def _plan_there(use: Asking) -> Plan | None:
    assert use.model is not None
    try:
        return use.admin.plan(use.model)
    except RefusedError as error:
        if error.status != 404 or is_turned_off(error):
            raise
        return None


def _champion(use: Asking, candidate: str) -> str:
    """The version that answers now; says which was taken, and why."""
    model, plan = use.model, use.read
    if plan is not None:
        if plan.answering == candidate:
            raise WrittenError(
                f"version {candidate} of {model} is what answers already: roll out another one"
            )
        note(f"champion is version {plan.answering}, which answers by the plan that is there")
        return plan.answering
    ready = use.admin.ready_versions(str(model))
    others = [version for version in ready if version != candidate]
    if not others:
        has = f"only version {candidate} of it is ready" if ready else "no version of it is ready"
        raise WrittenError(
            f"{model} has nothing to fall back to, {has}: name the champion with --from, or load one "
            "(headrace models list)"
        )
    newest = max(others, key=_age)
    note(f"champion is version {newest}, the newest ready one besides {candidate or 'the shadows'}")
    return newest


def _age(version: str) -> tuple[bool, int, str]:
    """Sorts numbers by their value, and behind whatever is none."""
    is_number = bool(_NUMBER.fullmatch(version))
    return is_number, int(version) if is_number else 0, version
