"""Compares the answers that two versions gave to the same input.

Decides, for one pair of answers, what each output's figures are; `rollout.comparison_stats` adds them up,
`rollout.comparison_slices` by slice, `rollout.comparison_noise` takes off what the champion differs from itself.
It must never raise because of what an answer holds: outputs that are missing, of another shape or dtype, or no arrays
at all are outcomes with counters of their own. Nor may it change an answer.

Medians on one core of a shared server, the machine quiet and (in brackets) busy, in microseconds:

- `compare` of one output float32 [1, 1]: 5 (9), [1, 2]: 27 (45), [1, 1000]: 37 (66), [1000, 1]: 68 (100);
- of one of MAX_ELEMENTS: 1400 (1800); an answer of 500 outputs: 490;
- adding it up (`SlicedComparison.record`): 3 (6) for one row, 11 (15) for many, 19 where "other" takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np

from rollout.comparison_numbers import compare_numbers, compare_one_number
from rollout.comparison_rules import (
    MAX_OUTPUTS,
    MAX_STRINGS,
    OutputRule,
    Rules,
    bounded_name,
    rank,
)
from rollout.comparison_stats import Comparison, OutputStats

_STRING_KINDS = "SUT"


def compare(
    outputs_a: Mapping[str, object],
    outputs_b: Mapping[str, object],
    rules: Rules,
    key: bytes,
) -> Comparison:
    """The figures of one pair of answers: `outputs_a` of the champion, `outputs_b` of the other version.

    Outputs are arrays by name, of any shape; the first axis is the batch. `key` tells this pair from others (the
    request's id) and decides which pairs of scores are kept. Raises nothing, whatever the outputs are.
    """
    comparison = Comparison(answers=1)
    names: list[str] = list(outputs_a)
    if outputs_b.keys() != outputs_a.keys():
        names += [name for name in outputs_b if name not in outputs_a]
    if len(names) > MAX_OUTPUTS or rules.only:
        names = _chosen(names, rules, comparison)
    ticket = int.from_bytes(blake2b(key, digest_size=8).digest())
    for name in names:
        stats = OutputStats()
        _compare_output(outputs_a.get(name), outputs_b.get(name), rules.of(name), ticket, stats)
        comparison.differing |= not stats.compared or stats.answers_beyond > 0
        comparison.flipped |= stats.answers_flipped > 0
        _put(comparison, bounded_name(name), stats)
    return comparison


def _chosen(names: list[str], rules: Rules, comparison: Comparison) -> list[str]:
    if rules.only:
        chosen = [name for name in names if name in rules.only]
        comparison.uncompared += len(names) - len(chosen)
        return chosen
    comparison.uncompared += len(names) - MAX_OUTPUTS
    return sorted(names, key=lambda name: rank(bounded_name(name)))[:MAX_OUTPUTS]


def _put(comparison: Comparison, name: str, stats: OutputStats) -> None:
    before = comparison.outputs.get(name)
    if before is None:
        comparison.outputs[name] = stats
    else:  # two long names that are cut to the same one
        before.absorb(stats)


def _compare_output(
    a: object, b: object, rule: OutputRule, ticket: int, stats: OutputStats
) -> None:
    """Writes the outcome and the figures of one output into the fresh `stats`."""
    if a is None or b is None:
        stats.missing_a += a is None
        stats.missing_b += a is not None
        return
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        stats.unsupported += 1
    elif a.dtype != b.dtype and not (a.dtype.kind == b.dtype.kind and a.dtype.kind in "SU"):
        stats.dtype_mismatches += 1
    elif a.shape != b.shape:
        stats.shape_mismatches += 1
    else:
        _compare_arrays(a.view(np.ndarray), b.view(np.ndarray), rule, ticket, stats)


def _compare_arrays(
    a: np.ndarray, b: np.ndarray, rule: OutputRule, ticket: int, stats: OutputStats
) -> None:
    kind = a.dtype.kind
    if kind in "fiubc":
        stats.compared += 1
        if a.size == 1 and kind != "c":
            compare_one_number(a.item(), b.item(), rule, ticket, stats)
        elif a.size:
            compare_numbers(a, b, rule, ticket, stats)
    elif kind == "O" or kind in _STRING_KINDS:
        _compare_strings(a, b, rule, stats)
    else:
        stats.unsupported += 1


def _compare_strings(a: np.ndarray, b: np.ndarray, rule: OutputRule, stats: OutputStats) -> None:
    """Equal or not, by element; a str and bytes are never equal. Objects of other types are not supported."""
    strings_a, strings_b = a.flat[:MAX_STRINGS].tolist(), b.flat[:MAX_STRINGS].tolist()
    if not all(isinstance(value, (bytes, str)) for value in strings_a + strings_b):
        stats.unsupported += 1
        return
    beyond = sum(
        isinstance(one, str) is not isinstance(other, str)
        or one != other  # python -bb: not even compared
        for one, other in zip(strings_a, strings_b, strict=True)
    )
    stats.compared += 1
    stats.cut += a.size > MAX_STRINGS
    stats.elements += len(strings_a)
    stats.beyond += beyond
    stats.answers_beyond += beyond > 0
    if rule.decision in ("auto", "label"):
        stats.decisions += len(strings_a)
        stats.flips += beyond
        stats.answers_flipped += beyond > 0
