"""What a plan says about comparing answers: tolerances by output, the score, and what answers are sliced by.

Decides the defaults where a plan says nothing, from the outputs that the model declares, and what is wrong with what it
does say. It must never look at an answer: ``rollout.comparison`` does, by the ``Rules`` that are made here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from rollout.comparison_rules import MAX_OUTPUTS, Decision, OutputRule, Rules

MAX_SLICE_NAMES = 4
"""Each of them keeps figures of up to ``rollout.comparison_rules.MAX_SLICES`` values."""
MAX_NAME_CHARACTERS = 128
DEFAULT_ABS_TOLERANCE = 1e-6
DEFAULT_REL_TOLERANCE = 1e-3
_SLICE = re.compile(r"(input|parameter|header):([A-Za-z0-9_.-]{1,128})", re.ASCII)


class PlannedOutput(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How one output is compared, as ``rollout.comparison_rules.OutputRule`` says; None leaves the default."""

    name: str
    abs_tolerance: float | None = None
    rel_tolerance: float | None = None
    decision: Decision | None = None
    threshold: float | None = None
    """Where the class flips, for outputs whose decision is one."""


class PlannedComparison(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How the answers of a model's versions are compared. Everything may be left out."""

    outputs: tuple[PlannedOutput, ...] = ()
    """Rules of single outputs; all others are compared by the defaults."""
    score: str = ""
    """The output that "the score" is in; empty: the first output of floats."""
    score_column: int | None = None
    """Of the score output's last axis, negative from its end; the score is its mean over the rows.

    None: the number itself; of two classes the second one's; of more that of the class both versions hold highest.
    """


class ScoreRule(msgspec.Struct, frozen=True):
    """Where a score is."""

    output: str
    """Empty for a model without one."""
    column: int | None = None


def rules_of(planned: PlannedComparison, outputs: Mapping[str, bool]) -> tuple[Rules, ScoreRule]:
    """The rules for a model whose outputs are ``outputs``: by name, in order, whether it holds floats.

    All outputs are compared, at most ``MAX_OUTPUTS`` of them: the score's, those that have rules, and then the first.
    Raises ``ValueError`` for what ``comparison_faults`` tells in a sentence.
    """
    score = planned.score or next((name for name, is_float in outputs.items() if is_float), "")
    named = {one.name: _rule(one) for one in planned.outputs}
    rules = Rules(default=_DEFAULT_RULE, outputs=named)
    if len(outputs) > MAX_OUTPUTS:
        wanted = dict.fromkeys([score, *named, *outputs])
        only = [name for name in wanted if name in outputs][:MAX_OUTPUTS]
        rules = msgspec.structs.replace(rules, only=tuple(only))
    return rules, ScoreRule(score, planned.score_column)


def slice_sources(slices: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Each name of a plan as ("input", "parameter" or "header", name); what is none is left out."""
    found = [_SLICE.fullmatch(one) for one in slices]
    return tuple((match[1], match[2]) for match in found if match)


_SECRETS = frozenset(
    f"header:{name}"
    for name in (
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-api-key",
        "x-headrace-token",
    )
)


def comparison_faults(planned: PlannedComparison, slices: tuple[str, ...]) -> Iterator[str]:
    """All that is wrong, each in a sentence."""
    names = [one.name for one in planned.outputs]
    if len(names) > MAX_OUTPUTS:
        yield f"comparison has rules for {len(names)} outputs: at most {MAX_OUTPUTS}"
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"comparison: output {name!r} is there {names.count(name)} times: keep one"
    for name in dict.fromkeys([*names, planned.score or "score"]):
        if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
            yield f"comparison: {name[:MAX_NAME_CHARACTERS]!r} is no output's name"
    for one in planned.outputs:
        try:
            _rule(one)
        except ValueError as error:
            yield f"comparison: output {one.name!r}: {error}"
    if planned.score_column is not None and abs(planned.score_column) > 2**16:
        yield f"comparison.score_column is {planned.score_column}: name a column of the score output"
    if len(slices) > MAX_SLICE_NAMES:
        yield f"there are {len(slices)} slices: at most {MAX_SLICE_NAMES}"
    for name in dict.fromkeys(slices):
        if slices.count(name) > 1:
            yield f"slices: {name!r} is there {slices.count(name)} times: keep one"
        if name.casefold() in _SECRETS:
            yield f"slices: {name[:200]!r} carries a secret, which has no place among figures"
        if not _SLICE.fullmatch(name):
            yield f"slices: {name[:200]!r} is none: write input:NAME, parameter:NAME or header:NAME"


def _rule(planned: PlannedOutput) -> OutputRule:
    default = _DEFAULT_RULE
    if planned.decision is None and planned.threshold is not None:
        default = msgspec.structs.replace(default, decision="threshold")
    said = {
        name: value
        for name, value in msgspec.structs.asdict(planned).items()
        if name != "name" and value is not None
    }
    return OutputRule(**{**msgspec.structs.asdict(default), **said})


_DEFAULT_RULE = OutputRule(abs_tolerance=DEFAULT_ABS_TOLERANCE, rel_tolerance=DEFAULT_REL_TOLERANCE)
