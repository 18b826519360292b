"""The figures of one pair of numeric outputs of the same shape and dtype.

Decides what is beyond tolerance, what is a decision and what a score. It must never raise or warn, whatever the numbers
are (NaN, infinite, too large to subtract), nor copy more than MAX_ELEMENTS of them.

Scores are what the shift and the rank correlation are about: of a threshold or a plain number the number; of two
classes the second one's; of more classes that of the class which both versions together hold highest. (Taking the
champion's highest class would pick its luckiest number, and show a shift between two equals.)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rollout.comparison_rules import LARGEST_DIFFERENCE, MAX_ELEMENTS, MAX_PAIRS, OutputRule
from rollout.comparison_stats import OutputStats

Doubles = npt.NDArray[np.float64]

_MASK_64 = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_LARGEST_SQUARE = LARGEST_DIFFERENCE * LARGEST_DIFFERENCE


def compare_one_number(
    one: float, other: float, rule: OutputRule, ticket: int, stats: OutputStats
) -> None:
    """Adds the figures of outputs of one element, `one` the champion's: as `compare_numbers`, but five times as fast.

    Both are of the same type: float (of any precision), int or bool.
    """
    is_float = not isinstance(one, int)
    a, b = float(one), float(other)
    difference = b - a
    size = abs(difference)
    stats.elements += 1
    if not size <= LARGEST_DIFFERENCE and not (math.isfinite(a) and math.isfinite(b)):
        stats.nonfinite_a += not math.isfinite(a)
        stats.nonfinite_b += not math.isfinite(b)
        beyond = not (a == b or (a != a and b != b))
        stats.beyond += beyond
        stats.answers_beyond += beyond
        return
    if is_float:
        beyond = not size <= rule.abs_tolerance + rule.rel_tolerance * abs(a)
    else:
        beyond = one != other if rule.abs_tolerance < 1.0 else size > rule.abs_tolerance
    size = min(size, LARGEST_DIFFERENCE)
    difference = math.copysign(size, difference)
    stats.beyond += beyond
    stats.answers_beyond += beyond
    stats.measured += 1
    stats.difference_sum += difference
    stats.absolute_sum += size
    stats.square_sum += size * size
    stats.largest = size
    decision = rule.decision
    if decision == "auto":
        decision = "threshold" if is_float else "label"
    if decision == "none":
        _add_score(a, b, difference, ticket, stats)
        return
    flipped = False
    if decision == "threshold":
        flipped = (a >= rule.threshold) is not (b >= rule.threshold)
    elif decision == "label":
        flipped = beyond
    if decision != "label":
        _add_score(a, b, difference, ticket, stats)
    stats.decisions += 1
    stats.flips += flipped
    stats.answers_flipped += flipped


def _add_score(a: float, b: float, difference: float, ticket: int, stats: OutputStats) -> None:
    stats.shifts += 1
    stats.shift_sum += difference
    stats.shift_square_sum += difference * difference
    stats.pairs = [(_first_ticket(ticket), a, b)]


def compare_numbers(
    a: np.ndarray, b: np.ndarray, rule: OutputRule, ticket: int, stats: OutputStats
) -> None:
    """Adds the figures of outputs `a` (the champion's) and `b`, at least one element each, of the same shape and dtype.

    Real and imaginary parts of complex numbers count as elements.
    """
    if a.dtype.kind == "c":
        a, b = _parts(a), _parts(b)
        rule = OutputRule(rule.abs_tolerance, rule.rel_tolerance, decision="none")
        columns = 0
    else:
        columns = a.shape[-1] if a.ndim > 1 else 1
    a, b, columns = _front(a, b, columns, stats)
    with np.errstate(all="ignore"):
        x, y = a.astype(np.float64), b.astype(np.float64)
        difference = y - x
        size = np.abs(difference)
        beyond = _beyond(a, b, x, size, rule)
        square_sum = float(np.add.reduce(size * size))
        if square_sum <= _LARGEST_SQUARE:  # so all are finite, and none is to be clipped
            keep = None
            _add_differences(difference, size, square_sum, stats)
        else:
            keep = _set_aside(x, y, beyond, stats)
            clipped = np.clip(difference[keep], -LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)
            size = np.abs(clipped)
            _add_differences(clipped, size, float(np.add.reduce(size * size)), stats)
        how_many = int(np.count_nonzero(beyond)) if beyond is not None else 0
        stats.elements += x.size
        stats.beyond += how_many
        stats.answers_beyond += how_many > 0
        if columns:
            _add_decisions(x, y, beyond, keep, columns, a.dtype.kind, rule, ticket, stats)


def _parts(values: np.ndarray) -> np.ndarray:
    """Complex numbers as real ones [2 n]; no more of them than are compared."""
    front = np.ascontiguousarray(_first(values, MAX_ELEMENTS // 2 + 1))
    return front.view(front.real.dtype)


def _front(
    a: np.ndarray, b: np.ndarray, columns: int, stats: OutputStats
) -> tuple[np.ndarray, np.ndarray, int]:
    """Both as [n] with n <= MAX_ELEMENTS, of whole rows; `columns` is 0 where not even one row of them fits."""
    if a.size <= MAX_ELEMENTS:
        return a.reshape(-1), b.reshape(-1), columns
    stats.cut += 1
    length = MAX_ELEMENTS
    if columns > MAX_ELEMENTS:
        columns = 0
    elif columns:
        length -= length % columns
    return _first(a, length), _first(b, length), columns


def _first(values: np.ndarray, length: int) -> np.ndarray:
    """The first `length` elements [length]: a view where that can be, else a copy of them alone."""
    return values.reshape(-1)[:length] if values.flags.c_contiguous else values.flat[:length]


def _beyond(
    a: np.ndarray, b: np.ndarray, x: Doubles, size: Doubles, rule: OutputRule
) -> npt.NDArray[np.bool_] | None:
    """Which elements are beyond tolerance, NaN among them; None for none."""
    if a.dtype.kind == "f":
        # A NaN is never below anything, so it goes the long way, and is beyond until it is set aside.
        if float(np.maximum.reduce(size)) <= rule.abs_tolerance:
            return None
        within = size <= rule.abs_tolerance + rule.rel_tolerance * np.abs(x)
        return np.asarray(~within)
    if rule.abs_tolerance < 1.0:
        return np.asarray(a != b)  # the integers themselves: doubles cannot tell large ones apart
    return size > rule.abs_tolerance


def _set_aside(
    x: Doubles, y: Doubles, beyond: npt.NDArray[np.bool_] | None, stats: OutputStats
) -> npt.NDArray[np.bool_]:
    """Counts what is not finite, corrects `beyond` for it, and tells which elements are finite on both sides."""
    finite_x, finite_y = np.isfinite(x), np.isfinite(y)
    stats.nonfinite_a += x.size - int(np.count_nonzero(finite_x))
    stats.nonfinite_b += y.size - int(np.count_nonzero(finite_y))
    keep = finite_x & finite_y
    if beyond is not None:
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        beyond[~keep] = ~same[~keep]
    return np.asarray(keep)


def _add_differences(
    difference: Doubles, size: Doubles, square_sum: float, stats: OutputStats
) -> None:
    if not size.size:
        return
    stats.measured += size.size
    stats.difference_sum += float(np.add.reduce(difference))
    stats.absolute_sum += float(np.add.reduce(size))
    stats.square_sum += square_sum
    stats.largest = float(np.maximum.reduce(size))


def _add_decisions(
    x: Doubles,
    y: Doubles,
    beyond: npt.NDArray[np.bool_] | None,
    keep: npt.NDArray[np.bool_] | None,
    columns: int,
    kind: str,
    rule: OutputRule,
    ticket: int,
    stats: OutputStats,
) -> None:
    """Adds flips, shifts and pairs of the rows that are finite (`keep`; None for all) on both sides."""
    decision = rule.decision
    if decision == "auto":
        decision = "label" if kind != "f" else "argmax" if columns > 1 else "threshold"
    if decision == "label":
        changed = beyond if keep is None or beyond is None else beyond[keep]
        flips = 0 if changed is None else int(np.count_nonzero(changed))
        _add_flips(x.size if keep is None else int(np.count_nonzero(keep)), flips, stats)
        return
    if decision == "argmax":
        scores = _of_classes(x, y, keep, columns, stats)
    elif decision == "threshold" or columns == 1:
        scores = (x, y) if keep is None else (x[keep], y[keep])
        if decision == "threshold":
            flipped = (scores[0] >= rule.threshold) != (scores[1] >= rule.threshold)
            _add_flips(flipped.size, int(np.count_nonzero(flipped)), stats)
    else:
        return
    if scores[0].size:
        _add_scores(*scores, ticket, stats)


def _add_flips(decisions: int, flips: int, stats: OutputStats) -> None:
    stats.decisions += decisions
    stats.flips += flips
    stats.answers_flipped += flips > 0


def _of_classes(
    x: Doubles,
    y: Doubles,
    keep: npt.NDArray[np.bool_] | None,
    columns: int,
    stats: OutputStats,
) -> tuple[Doubles, Doubles]:
    """Adds the flips of the highest class of each row, and gives the rows' scores on both sides, [rows] each."""
    x, y = x.reshape(-1, columns), y.reshape(-1, columns)
    if keep is not None:
        rows = keep.reshape(-1, columns).all(axis=1)
        x, y = x[rows], y[rows]
    count = len(x)
    if not count:
        return x[:, 0], y[:, 0]
    flips = int(np.count_nonzero(x.argmax(axis=1) != y.argmax(axis=1)))
    _add_flips(count, flips, stats)
    if columns <= 2:
        return x[:, -1], y[:, -1]
    both_hold_highest = (x * 0.5 + y * 0.5).argmax(axis=1)  # halves, for the sum may be infinite
    at = np.arange(count)
    return x[at, both_hold_highest], y[at, both_hold_highest]


def _add_scores(a: Doubles, b: Doubles, ticket: int, stats: OutputStats) -> None:
    """Adds one shift and up to MAX_PAIRS pairs of the finite scores `a` and `b`, [n] each with n >= 1."""
    difference = np.clip(b - a, -LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)
    shift = float(np.add.reduce(difference)) / a.size
    stats.shifts += 1
    stats.shift_sum += shift
    stats.shift_square_sum += shift * shift
    if a.size == 1:
        stats.pairs = [(_first_ticket(ticket), float(a[0]), float(b[0]))]
        return
    tickets = _tickets(ticket, a.size)
    if a.size > MAX_PAIRS:
        lowest = np.argpartition(tickets, MAX_PAIRS)[:MAX_PAIRS]
        tickets, a, b = tickets[lowest], a[lowest], b[lowest]
    stats.pairs = sorted(zip(tickets.tolist(), a.tolist(), b.tolist(), strict=True))


def _first_ticket(ticket: int) -> int:
    """`_tickets(ticket, 1)[0]`, for less."""
    mixed = ticket
    mixed = ((mixed ^ (mixed >> 30)) * _MIX_1) & _MASK_64
    mixed = ((mixed ^ (mixed >> 27)) * _MIX_2) & _MASK_64
    return (mixed ^ (mixed >> 31)) >> 32


def _tickets(ticket: int, count: int) -> npt.NDArray[np.uint64]:
    """One uniform 32-bit number for each row of an answer whose 64-bit number is `ticket` (splitmix64's mixer)."""
    mixed = np.arange(count, dtype=np.uint64) * np.uint64(_STEP) + np.uint64(ticket)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX_1)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX_2)
    return np.asarray((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(32))
