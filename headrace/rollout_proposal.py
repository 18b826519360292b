"""From what people write, options and a file, to the proposal of a rollout: the document that the admin port takes.

Decides how percentages and durations are written, what an option overrules in a file, and what holds where nobody says
anything. Pure: chance and files' bytes come in. It must never guess at what it cannot read, and never ask a server:
which version answers now is handed in.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rollout.checking import MAX_DEADLINE_S, MAX_SALT_CHARACTERS, MAX_STEPS, faults_of
from rollout.plan import (
    FORMAT,
    MAX_DOCUMENT_BYTES,
    PlanError,
    Proposal,
    Step,
    decode_proposal,
)

DEFAULT_STEPS = "1,5,25,50,100"
DEFAULT_DEADLINE_S: float = 86_400.0
RANDOM_SALT_HEX_DIGITS = 8

_PERCENT = re.compile(r"(\d{1,9}(?:\.\d{1,12})?) ?%?", re.ASCII)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)", re.ASCII)
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class WrittenError(ValueError):
    """What was written makes no proposal. The message is a sentence; ``faults`` are more, when there are several."""

    def __init__(self, sentence: str, faults: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.faults = tuple(faults)


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What the options say; None where nothing was said."""

    champion: str | None = None
    candidate: str | None = None
    steps_percent: tuple[float, ...] | None = None
    """Without the 100 at the end, as ``steps_of`` gives them."""
    min_time_s: float | None = None
    min_samples: int | None = None
    sticky: str | None = None
    shadow_percent: float | None = None
    slo_ms: float | None = None


# ---- how things are written --------------------------------------------------------------------------------


def steps_of(text: str) -> tuple[float, ...]:
    """The percentages of ``1,5,25,50,100``, without the 100 that is the promotion. Raises ``WrittenError``."""
    if not text.strip():
        raise WrittenError(f"--steps is empty: write percentages such as {DEFAULT_STEPS}")
    steps: list[float] = []
    for part in text.split(","):
        percent = percent_of(part, "--steps")
        if steps and percent <= steps[-1]:
            how = "goes down from" if percent < steps[-1] else "stays at"
            to = f" to {percent:g}" if percent < steps[-1] else ""
            raise WrittenError(
                f"--steps {how} {steps[-1]:g}{to} %: every step must be higher than the one before"
            )
        steps.append(percent)
    if steps[-1] == 100:  # exactly: the promotion gives everything
        del steps[-1]
    if not steps:
        raise WrittenError(
            "--steps has only 100, which is the promotion: write at least one step below it, say 10,100"
        )
    if len(steps) > MAX_STEPS:
        raise WrittenError(f"--steps has {len(steps)} steps below 100: at most {MAX_STEPS}")
    return tuple(steps)


def percent_of(text: str, option: str) -> float:
    """``10``, ``10%`` or ``0.5 %``, above 0 and up to 100. Raises ``WrittenError`` that names ``option``."""
    found = _PERCENT.fullmatch(text.strip())
    if found is None:
        what = f"has '{text.strip()}', which is" if text.strip() else "has an empty place, which is"
        raise WrittenError(f"{option} {what} no percentage: write a number such as 5 or 0.5")
    if "." in found[1] and len(found[1].rstrip("0").partition(".")[2]) > 4:
        raise WrittenError(f"{option} has {text.strip()}: at most 4 places after the point")
    percent = float(found[1])
    if percent > 100:
        raise WrittenError(f"{option} has {percent:g} %: more than 100 % is more than there is")
    if percent <= 0:
        raise WrittenError(f"{option} has {percent:g} %: write more than 0")
    return percent


def seconds_of(text: str, option: str) -> float:
    """Seconds of ``30s``, ``5m``, ``2h``, ``1d`` or ``500ms``. Raises ``WrittenError`` that names ``option``."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise WrittenError(
            f"{option} '{text}' is no duration: write a number and its unit, such as 30s, 5m or 2h"
        )
    return float(found[1]) * _UNITS_S[found[2]]


def salt_for(model: str, random_part: str) -> str:
    """Of its own for every rollout, and telling which: the model's name and a random part."""
    return f"{model[: MAX_SALT_CHARACTERS - len(random_part) - 1]}-{random_part}"


# ---- the document ------------------------------------------------------------------------------------------


def read_document(content: bytes, name: str) -> dict[str, Any]:
    """A proposal as a file holds it, TOML or JSON by the name's end. Raises ``WrittenError``."""
    if len(content) > MAX_DOCUMENT_BYTES:
        raise WrittenError(f"{name} has more than {MAX_DOCUMENT_BYTES} bytes, so it is no proposal")
    is_json = name.lower().endswith(".json")
    try:
        text = content.decode()
        found = json.loads(text) if is_json else tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # both decoders' errors, and bytes that are no UTF-8
        raise WrittenError(
            f"{name} is not valid {'JSON' if is_json else 'TOML'}: {error}"
        ) from None
    if not isinstance(found, dict):
        raise WrittenError(f"{name} holds no proposal: it must be one JSON object")
    return found


def document_with(model: str, wishes: Wishes, document: dict[str, Any]) -> dict[str, Any]:
    """The file's document with what the options overrule; the file's is left as it is. Raises ``WrittenError``."""
    written = document.get("model", model)
    if written != model:
        raise WrittenError(
            f"the file is for model {written}, and you name {model}: use one of them"
        )
    merged: dict[str, Any] = {"format": FORMAT, **document, "model": model}
    _overrule(merged, "champion", wishes.champion)
    _overrule(merged, "candidate", wishes.candidate)
    _overrule(merged, "slo_ms", wishes.slo_ms)
    if wishes.sticky is not None:
        merged["sticky"] = {**_table(merged, "sticky"), "from": wishes.sticky}
    if wishes.steps_percent is not None:
        merged["steps"] = [{"percent": percent} for percent in wishes.steps_percent]
    elif "steps" not in merged and merged.get("candidate"):
        merged["steps"] = [{"percent": percent} for percent in steps_of(DEFAULT_STEPS)]
    if wishes.shadow_percent is not None:
        merged["shadows"] = _with_shadow(merged, wishes.shadow_percent)
    for field, value in (("min_time_s", wishes.min_time_s), ("min_samples", wishes.min_samples)):
        if value is not None:
            merged["steps"] = [{**one, field: value} for one in _tables(merged, "steps")]
            merged[f"shadow_{field}"] = value
    return merged


def finished(merged: dict[str, Any], champion: str, random_part: Callable[[], str]) -> Proposal:
    """The proposal, with everything that ``merged`` leaves open. Raises ``WrittenError`` with all that is wrong.

    ``champion``: the version that answers now, for a document that names none. ``random_part``: a few characters, new
    ones with every call.
    """
    model = str(merged["model"])
    _tables(merged, "steps")
    document = {"champion": champion, **merged}
    sticky = _table(document, "sticky")
    document["sticky"] = {"salt": salt_for(model, random_part()), **sticky}
    document["shadows"] = [
        {"salt": salt_for(model, random_part()), **shadow}
        for shadow in _tables(document, "shadows")
    ]
    try:
        proposal = decode_proposal(msgspec.json.encode(document))
    except (PlanError, TypeError, ValueError, OverflowError) as error:
        raise WrittenError(str(error)) from None
    if "deadline_s" not in document:
        proposal = msgspec.structs.replace(proposal, deadline_s=_deadline_s(proposal))
    if faults := faults_of(proposal):
        raise WrittenError("this is no rollout yet", faults)
    return proposal


def _overrule(merged: dict[str, Any], field: str, value: object) -> None:
    if value is not None:
        merged[field] = value


def _with_shadow(merged: dict[str, Any], percent: float) -> list[dict[str, Any]]:
    candidate = merged.get("candidate")
    if not candidate:
        raise WrittenError(
            "--shadow sends copies to the candidate, and there is none: name it with --to"
        )
    shadows = _tables(merged, "shadows")
    own = next((one for one in shadows if one.get("version") == candidate), {"version": candidate})
    others = [one for one in shadows if one is not own and one.get("version") != candidate]
    return [*others, {**own, "percent": percent}]


def _deadline_s(proposal: Proposal) -> float:
    """The usual one, and for slow rollouts twice what a step lasts at least."""
    longest_s = max(
        [proposal.shadow_min_time_s, *(step.min_time_s for step in proposal.steps)]
        if proposal.shadows_candidate
        else [step.min_time_s for step in proposal.steps],
        default=0.0,
    )
    return min(max(DEFAULT_DEADLINE_S, 2 * longest_s), MAX_DEADLINE_S)


def _table(document: dict[str, Any], field: str) -> dict[str, Any]:
    found = document.get(field, {})
    if not isinstance(found, dict):
        raise WrittenError(f"'{field}' must be a table, such as {{ from = \"request_id\" }}")
    return found


def _tables(document: dict[str, Any], field: str) -> list[dict[str, Any]]:
    found = document.get(field, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise WrittenError(f"'{field}' must be a list of tables, each with its own 'percent'")
    return found


# ---- for people --------------------------------------------------------------------------------------------


def duration_words(seconds: float) -> str:
    """``5m``, ``90s``, ``36h`` … as one would write it."""
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS_S[unit] and seconds % _UNITS_S[unit] == 0:
            return f"{seconds / _UNITS_S[unit]:g}{unit}"
    return f"{seconds:g}s"


def steps_words(steps: Sequence[Step]) -> str:
    """All steps in one line: what they have in common is said once."""
    needs = {(step.min_time_s, step.min_samples) for step in steps}
    if len(needs) == 1:
        percents = ", ".join(f"{step.percent:g} %" for step in steps)
        each = "each for " if len(steps) > 1 else "for "
        return f"{percents}, {each}{_need(steps[0])}"
    return ", ".join(f"{step.percent:g} % for {_need(step)}" for step in steps)


def _need(step: Step) -> str:
    return f"at least {duration_words(step.min_time_s)} and {step.min_samples:,} requests"
