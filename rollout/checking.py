"""Everything that is wrong with a plan, at once, each in a sentence that says what to write instead.

Decides whether a proposal may become a plan (``faults_of``), and whether a stored plan is one that the controller can
have made (``document_faults_of``). What only others know, which versions exist and whose signatures differ, is handed
in as facts. It must never change a plan, and never stop at the first fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import msgspec

from rollout.comparison_plan import comparison_faults
from rollout.evidence import Guardrail, GuardrailKind, default_guardrails, guardrail_faults
from rollout.plan import (
    FORMAT,
    MAX_HISTORY_ENTRIES,
    NO_STEP,
    Plan,
    PlannedGuardrail,
    Proposal,
    State,
    weights_ppm,
)
from rollout.split import WHOLE_PPM, SplitError, Splitter, ppm_of_percent

MAX_OTHERS = 6
MAX_SHADOWS = 4
MAX_STEPS = 20
MAX_GUARDRAILS = 8
MAX_SALT_CHARACTERS = 64
MAX_MIN_TIME_S = 30 * 86_400.0
MAX_MIN_SAMPLES = 1_000_000_000
MIN_DEADLINE_S = 60.0
MAX_DEADLINE_S = 90 * 86_400.0
MAX_SLO_MS = 3_600_000.0
MAX_ALPHA = 0.2
GUARDRAIL_KINDS: tuple[str, ...] = get_args(GuardrailKind)

_SLACK_PERCENT = 0.00005
"""Half of the smallest weight; sums of decimals are off by far less."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
"""As folders of versions are named: no leading zero, and no word."""
_STICKY = re.compile(
    r"request_id|header:[A-Za-z0-9-]{1,128}|(?:parameter|input):[A-Za-z0-9_.-]{1,128}", re.ASCII
)


class Facts(msgspec.Struct, frozen=True):
    """What the proposal's checker cannot see itself."""

    versions: frozenset[str]
    """That exist for the model."""
    signature_mismatches: Mapping[str, str] = {}
    """By version: in what its inputs or outputs differ from the champion's."""


def faults_of(proposal: Proposal, facts: Facts | None = None) -> list[str]:
    """All that is wrong with a proposal, in the order of its fields; empty when it may be submitted.

    Without ``facts`` only what the proposal says about itself is looked at.
    """
    faults = [
        *_faults_of_names(proposal),
        *_faults_of_others(proposal),
        *_faults_of_sticky(proposal),
        *_faults_of_shadows(proposal),
        *comparison_faults(proposal.comparison, proposal.slices),
        *_faults_of_steps(proposal),
        *_faults_of_guardrails(proposal),
        *_faults_of_limits(proposal),
    ]
    if facts is not None:
        faults += _faults_by_facts(proposal, facts)
    return faults


def guardrails_of(proposal: Proposal) -> tuple[Guardrail, ...]:
    """What is to be judged. Raises ``msgspec.ValidationError`` for what ``faults_of`` tells in a sentence."""
    if not proposal.guardrails:
        return default_guardrails()
    return tuple(_guardrail(planned) for planned in proposal.guardrails)


def document_faults_of(plan: Plan) -> list[str]:
    """All that is wrong with a stored plan: what ``faults_of`` says, and what no controller would have written."""
    faults = faults_of(plan)
    if plan.revision < 1 or not 1 <= plan.began_revision <= plan.evidence_since <= plan.revision:
        faults.append(
            f"the revisions are out of order: began_revision {plan.began_revision}, evidence_since "
            f"{plan.evidence_since}, revision {plan.revision}"
        )
    if len(plan.history) > MAX_HISTORY_ENTRIES:
        faults.append(
            f"the history has {len(plan.history)} entries: keep the last {MAX_HISTORY_ENTRIES}"
        )
    before_steps = {State.DRAFT, State.SHADOWING}
    if not NO_STEP <= plan.step < len(plan.steps):
        faults.append(f"the plan is at step {plan.step}, and has {len(plan.steps)} steps, from 0")
    elif (plan.state is State.STEPPING and plan.step == NO_STEP) or (
        plan.state in before_steps and plan.step != NO_STEP
    ):
        faults.append(f"a plan that is {plan.state.value} cannot be at step {plan.step}")
    elif plan.state is State.PROMOTED and not plan.candidate:
        faults.append("the plan is promoted, and has no candidate: submit it anew")
    return faults or list(_faults_of_arms(plan))


# ---- what people write -------------------------------------------------------------------------------------


def _faults_of_names(proposal: Proposal) -> Iterator[str]:
    if proposal.format != FORMAT:
        yield f"format is {proposal.format}: this release knows format {FORMAT}"
    if not _NAME.fullmatch(proposal.model):
        yield f"model {proposal.model!r} is no model's name: letters, digits, _, . and -"
    if not _VERSION.fullmatch(proposal.champion):
        yield f"champion {proposal.champion!r} is no version: name the one that traffic falls back to"
    if proposal.candidate and not _VERSION.fullmatch(proposal.candidate):
        yield f"candidate {proposal.candidate!r} is no version: name the one to roll out"
    if proposal.candidate == proposal.champion:
        yield (
            f"champion and candidate are both version {proposal.champion}: "
            "roll out another version, or leave the candidate out to only shadow"
        )
    if not proposal.candidate and not proposal.shadows:
        yield "the plan has neither candidate nor shadows: name at least one version to try"


def _faults_of_others(proposal: Proposal) -> Iterator[str]:
    if len(proposal.others) > MAX_OTHERS:
        yield f"there are {len(proposal.others)} others: at most {MAX_OTHERS}"
    for other in proposal.others:
        if not _VERSION.fullmatch(other.version):
            yield f"others: {other.version!r} is no version"
        if other.version in {proposal.champion, proposal.candidate}:
            yield (
                f"version {other.version} is champion or candidate and among the others too: "
                "the steps say its weight, take it out of others"
            )
        yield from _faults_of_percent(f"the weight of version {other.version}", other.percent)
    yield from _repeated("others", [other.version for other in proposal.others])


def _faults_of_sticky(proposal: Proposal) -> Iterator[str]:
    if not _STICKY.fullmatch(proposal.sticky.source):
        yield (
            f"sticky.from is {proposal.sticky.source!r}: write request_id, header:NAME, "
            "parameter:NAME or input:NAME"
        )
    yield from _faults_of_salt("sticky.salt", proposal.sticky.salt)


def _faults_of_shadows(proposal: Proposal) -> Iterator[str]:
    if len(proposal.shadows) > MAX_SHADOWS:
        yield f"there are {len(proposal.shadows)} shadows: at most {MAX_SHADOWS}"
    for shadow in proposal.shadows:
        if not _VERSION.fullmatch(shadow.version):
            yield f"shadows: {shadow.version!r} is no version"
        yield from _faults_of_percent(f"the percent of shadow {shadow.version}", shadow.percent)
        yield from _faults_of_salt(f"the salt of shadow {shadow.version}", shadow.salt)
    yield from _repeated("shadows", [shadow.version for shadow in proposal.shadows])
    yield from _outside(
        "shadow_min_time_s", proposal.shadow_min_time_s, 0, MAX_MIN_TIME_S, "seconds"
    )
    yield from _outside(
        "shadow_min_samples", proposal.shadow_min_samples, 1, MAX_MIN_SAMPLES, "compared copies"
    )
    if proposal.self_copy_percent != 0:
        try:
            ppm_of_percent(proposal.self_copy_percent)
        except SplitError as error:
            yield f"self_copy_percent: {error}"


def _faults_of_steps(proposal: Proposal) -> Iterator[str]:
    if proposal.candidate and not proposal.steps:
        yield "there are no steps: say with which percentages the candidate goes up, say 1, 5, 25, 50"
    if proposal.steps and not proposal.candidate:
        yield "there are steps and no candidate: name the version that goes up by them"
    if len(proposal.steps) > MAX_STEPS:
        yield f"there are {len(proposal.steps)} steps: at most {MAX_STEPS}"
    others = sum(other.percent for other in proposal.others)
    before = 0.0
    for index, step in enumerate(proposal.steps):
        what = f"step {index}"
        bad_percent = list(_faults_of_percent(f"{what}'s percent", step.percent))
        yield from bad_percent
        if not bad_percent and step.percent <= before:
            yield (
                f"{what} has {step.percent:g} %, and before it are {before:g} %: "
                "every step must be higher than the one before"
            )
        elif not bad_percent and step.percent + others > 100 + _SLACK_PERCENT:
            yield (
                f"{what}'s {step.percent:g} % and the others' {others:g} % are more than 100 %: "
                "lower one of them"
            )
        elif not bad_percent and step.percent + others > 100 - _SLACK_PERCENT:
            yield (
                f"{what} with {step.percent:g} % leaves the champion no traffic to compare with: "
                "leave it out, for it is the promotion that gives the candidate everything"
            )
        before = max(before, step.percent)
        yield from _outside(f"{what}'s min_time_s", step.min_time_s, 0, MAX_MIN_TIME_S, "seconds")
        yield from _outside(
            f"{what}'s min_samples", step.min_samples, 1, MAX_MIN_SAMPLES, "requests"
        )
    if not proposal.steps and others > 100 - _SLACK_PERCENT:
        yield f"the others' weights are {others:g} % together: they must leave the champion something"


def _faults_of_guardrails(proposal: Proposal) -> Iterator[str]:
    if len(proposal.guardrails) > MAX_GUARDRAILS:
        yield f"there are {len(proposal.guardrails)} guardrails: at most {MAX_GUARDRAILS}"
    readable: list[Guardrail] = []
    for planned in proposal.guardrails:
        if planned.kind not in GUARDRAIL_KINDS:
            yield f"there is no guardrail {planned.kind!r}: take one of {', '.join(GUARDRAIL_KINDS)}"
            continue
        try:
            readable.append(_guardrail(planned))
        except msgspec.ValidationError as error:
            yield f"the guardrail {planned.kind!r} cannot be read: {error}"
    yield from guardrail_faults(readable)
    shadowed = {shadow.version for shadow in proposal.shadows}
    if any(one.kind == "score_shift" for one in readable) and not shadowed & {
        proposal.champion,
        proposal.candidate,
    }:
        yield (
            "the guardrail 'score_shift' compares two versions' answers to the same requests: "
            "add the champion or the candidate to shadows"
        )


def _guardrail(planned: PlannedGuardrail) -> Guardrail:
    fields = {
        name: value for name, value in msgspec.structs.asdict(planned).items() if value is not None
    }
    return msgspec.convert(fields, Guardrail)


def _faults_of_limits(proposal: Proposal) -> Iterator[str]:
    if not 0 < proposal.slo_ms <= MAX_SLO_MS:
        yield f"slo_ms is {proposal.slo_ms:g}: give milliseconds above 0, at most {MAX_SLO_MS:g}"
    if not 0 < proposal.alpha <= MAX_ALPHA:
        yield f"alpha is {proposal.alpha:g}: give a probability above 0 and up to {MAX_ALPHA:g}, say 0.01"
    yield from _outside(
        "deadline_s", proposal.deadline_s, MIN_DEADLINE_S, MAX_DEADLINE_S, "seconds"
    )
    longest_s = max(
        [step.min_time_s for step in proposal.steps]
        + ([proposal.shadow_min_time_s] if proposal.shadows_candidate else []),
        default=0.0,
    )
    if proposal.deadline_s <= longest_s:
        yield (
            f"deadline_s is {proposal.deadline_s:g}, and a step lasts {longest_s:g} s at least: "
            "the deadline must be later"
        )


def _faults_by_facts(proposal: Proposal, facts: Facts) -> Iterator[str]:
    roles = {"champion": [proposal.champion], "candidate": [proposal.candidate]}
    roles["others"] = [other.version for other in proposal.others]
    roles["shadows"] = [shadow.version for shadow in proposal.shadows]
    known = ", ".join(sorted(facts.versions)[:20]) or "none"
    told: set[str] = set()
    for role, versions in roles.items():
        for version in versions:
            if not version or version in told:
                continue
            told.add(version)
            if version not in facts.versions:
                yield f"{role}: model {proposal.model} has no version {version}; it has {known}"
            elif mismatch := facts.signature_mismatches.get(version):
                yield (
                    f"{role}: version {version} cannot stand in for version {proposal.champion}: "
                    f"{mismatch}"
                )


# ---- what the controller writes ----------------------------------------------------------------------------


def _faults_of_arms(plan: Plan) -> Iterator[str]:
    """Called only for a plan that has no other fault."""
    written = {arm.version: arm.weight_percent for arm in plan.arms}
    yield from _repeated("arms", [arm.version for arm in plan.arms])
    total = sum(arm.weight_percent for arm in plan.arms)
    if abs(total - 100) > 1e-6:
        yield f"the weights of the arms sum to {total:g} %: they must sum to 100 %"
    wanted = {
        version: ppm * 100 / WHOLE_PPM
        for version, ppm in weights_ppm(plan, plan.state, plan.step).items()
    }
    if written != wanted:
        yield (
            f"the arms weigh {_shown(written)}, and a plan that is {plan.state.value} "
            f"at step {plan.step} says {_shown(wanted)}"
        )
    for arm in plan.arms:
        owned = sum(end - start for start, end in arm.intervals) * 100 / WHOLE_PPM
        if owned != arm.weight_percent:
            yield (
                f"arm {arm.version} weighs {arm.weight_percent:g} %, and its intervals are "
                f"{owned:g} %"
            )
    try:
        Splitter(plan.shares(), plan.sticky.salt)
    except SplitError as error:
        yield f"the intervals of the arms are no split: {error}"


def _shown(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{version}: {percent:g} %" for version, percent in weights.items())


# ---- small rules -------------------------------------------------------------------------------------------


def _faults_of_percent(what: str, percent: float) -> Iterator[str]:
    try:
        if ppm_of_percent(percent) == 0:
            yield f"{what} is {percent:g} %: give more than 0, or leave it out"
    except SplitError as error:
        yield f"{what}: {error}"


def _faults_of_salt(what: str, salt: str) -> Iterator[str]:
    if not 1 <= len(salt) <= MAX_SALT_CHARACTERS or not salt.isprintable():
        yield (
            f"{what} is {salt[:MAX_SALT_CHARACTERS]!r}: give 1 to {MAX_SALT_CHARACTERS} printable "
            "characters, another one for every rollout"
        )


def _outside(what: str, value: float, low: float, high: float, unit: str) -> Iterator[str]:
    if not low <= value <= high:  # which NaN is not either
        yield f"{what} is {value:g}: give {low:g} to {high:g} {unit}"


def _repeated(what: str, versions: Sequence[str]) -> Iterator[str]:
    for version in dict.fromkeys(versions):
        if versions.count(version) > 1:
            yield f"{what}: version {version} is there {versions.count(version)} times: keep one"
