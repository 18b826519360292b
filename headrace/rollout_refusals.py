"""What a refusal of the admin port means for whoever typed the command: one sentence, and the next useful command.

Decides the words. Pure; it must never end the command itself.
"""

from __future__ import annotations

from typing import NamedTuple

from headrace.rollout_asking import NoAnswerError, RefusedError
from headrace.rollout_display import change_line, printable, state_words
from rollout.plan import Plan, State

TURNED_OFF = "this server has no rollouts"
_NO_PATH = "no such path"
"""How the admin port begins its answer where rollouts are turned off, so that it has no routes for them."""


class Told(NamedTuple):
    """Lines for standard error."""

    sentence: str
    more: tuple[str, ...]
    """What belongs to it, a line each."""
    next: str
    """A command, or what to do."""


def unanswered(error: NoAnswerError, url: str, model: str | None) -> Told:
    """No answer came."""
    if error.may_have_happened:
        return Told(
            f"{printable(str(error))}; whether the change was made is not known",
            (),
            f"headrace rollout status {model}",
        )
    return Told(
        printable(str(error)), (), f"headrace health --url {url} (--admin-url names another server)"
    )


def refused(error: RefusedError, model: str | None, read: Plan | None) -> Told:
    """The port said no. ``read``: the plan that the command had read before, if it had."""
    sentence = printable(str(error))
    status = f"headrace rollout status {model}" if model else "headrace rollout status"
    faults = tuple(f"- {printable(fault)}" for fault in error.faults)
    wait = f"wait {error.retry_after_s or 1:g} s, then the same command again"
    match error.status:
        case 401:
            return Told(
                sentence, (), "set HEADRACE_TOKEN or --token-file to a token that is in force"
            )
        case 403:
            return Told(
                sentence, (), "ask somebody with that role, or take a token of theirs: --token-file"
            )
        case 404 if sentence.startswith(_NO_PATH):
            return Told(
                f"{TURNED_OFF}: set enabled = true in [rollout] of its headrace.toml, and start it again",
                (),
                "headrace health (--admin-url names another server)",
            )
        case 404:
            return Told(
                sentence, (), "headrace rollout status (all rollouts), headrace models list"
            )
        case 409 if error.current is not None and error.current.state is State.DRAFT:
            return Told(sentence, (), f"{next_command(error.current)}; {status} shows what is warm")
        case 412:
            return Told(
                f"somebody was first: {sentence}",
                tuple(changes_since(read, error.current)),
                f"{status}, then the same command again if it is still right",
            )
        case 422:
            return Told(sentence, (), "the same command again: every call has a key of its own")
        case 428:
            return Told(sentence, (), f"{status}, then the same command again")
        case 429:
            return Told(sentence, (), wait)
        case 503:
            return Told(sentence, (), f"{wait}; headrace health tells how the server is")
    return Told(sentence, faults, status)


def changes_since(read: Plan | None, current: Plan | None) -> list[str]:
    """Who changed what since ``read`` (None: since there was no plan), a line each."""
    if current is None:
        return ["there is no plan any more"] if read is not None else []
    since = read.revision if read else 0
    newer = [entry for entry in current.history if entry.revision > since]
    if not newer:
        return [f"the plan is at revision {current.revision} ({state_words(current)})"]
    return [change_line(entry, current) for entry in newer]


def next_command(plan: Plan) -> str:
    """What one probably wants to do after a change."""
    command, name = "headrace rollout", printable(plan.model)
    match plan.state.value:
        case "draft":
            return f"{command} start {name}"
        case "paused":
            return f"{command} resume {name}"
        case "holding":
            return f"{command} status {name}, then resume, step, promote or rollback"
        case "promoted":
            return f'{command} rollback {name} --reason "…" returns to version {plan.champion}'
        case "rolled_back" | "aborted":
            return f"{command} history {name}"
    return f"{command} status {name} --watch"
