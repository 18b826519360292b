"""What counts as a difference between two answers, and how much of them is looked at: the rules of a comparison.

Decides tolerances, what a decision is for an output, and every bound on work and memory. It must never look at
an answer: that is for `rollout.comparison`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

import msgspec

MAX_OUTPUTS = 8
"""Outputs that are compared per answer, and kept per comparison."""
MAX_SLICES = 32
"""Slice values with figures of their own; the others share one."""
MAX_PAIRS = 128
"""Pairs of scores kept per output for the rank correlation."""
MAX_ELEMENTS = 2**16
"""Numbers of one output that are compared, from its front: one or two milliseconds' work."""
MAX_STRINGS = 2**12
"""As MAX_ELEMENTS, of an output of strings."""
MAX_NAME_CHARACTERS = 64
"""Of the name of a slice or an output; longer ones are cut."""
LARGEST_DIFFERENCE = 1e140
"""Differences are clipped to this, so that no sum of squares ever overflows."""

Decision = Literal["auto", "argmax", "threshold", "label", "none"]


class OutputRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one output is compared.

    Two numbers agree when |b - a| <= abs_tolerance + rel_tolerance * |a|, a being the champion's. Integers and
    booleans agree when |b - a| <= abs_tolerance (exactly equal below 1), strings when they are equal.

    What is a decision, whose change is a flip:

    - "argmax": the highest of the last axis, one decision for each row of it;
    - "threshold": whether a number reaches `threshold`, one for each number;
    - "label": the number or string itself, one for each;
    - "none": nothing (a regression, an embedding);
    - "auto": floats "argmax" with more than one column (a last axis behind the batch's) and else "threshold";
      integers, booleans and strings "label"; complex numbers "none".

    Raises ValueError on a tolerance or threshold that is none.
    """

    abs_tolerance: float = 1e-6
    rel_tolerance: float = 1e-4
    decision: Decision = "auto"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.abs_tolerance < math.inf:
            raise ValueError(f"abs_tolerance is {self.abs_tolerance}: give a number of 0 or more.")
        if not 0.0 <= self.rel_tolerance <= 1.0:
            raise ValueError(f"rel_tolerance is {self.rel_tolerance}: give a number from 0 to 1.")
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold is {self.threshold}: give a finite number.")


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the answers of one model are compared.

    `outputs` has rules for outputs by name, `default` is for the others. With `only`, no other outputs are
    compared; without, at most MAX_OUTPUTS of an answer are (always the same ones; see `rank`).

    Raises ValueError on more names than there is room for.
    """

    default: OutputRule = OutputRule()
    outputs: dict[str, OutputRule] = {}
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.only) > MAX_OUTPUTS:
            raise ValueError(
                f"{len(self.only)} outputs are to be compared: name at most {MAX_OUTPUTS}."
            )

    def of(self, output: str) -> OutputRule:
        """The rule of the output `output`."""
        return self.outputs.get(output, self.default)


def bounded_name(value: object) -> str:
    """`value` as the name of a slice or an output: at most MAX_NAME_CHARACTERS, and always encodable as UTF-8."""
    if isinstance(value, bytes):
        value = value[: 4 * MAX_NAME_CHARACTERS].decode("utf-8", "replace")
    elif isinstance(value, int) and value.bit_length() > 4 * MAX_NAME_CHARACTERS:
        value = hex(value)  # Python refuses to write out very long integers in decimal
    elif not isinstance(value, (str, int, float)):
        value = "none" if value is None else "unreadable"
    name = str(value)[:MAX_NAME_CHARACTERS]
    return name if name.isascii() else name.encode("utf-8", "replace").decode("utf-8")


@lru_cache(maxsize=1024)  # the kept names are ranked again with every one that is not
def rank(name: str) -> bytes:
    """Which names are kept when there are too many: those of the lowest rank.

    By a hash of the name and by nothing that depends on the order in which names came: a name that is among the
    lowest of all names was among the lowest of every part of them, so that its figures are complete wherever
    and in whatever order the parts were added up.
    """
    return blake2b(name.encode(), digest_size=8, person=b"comparison").digest()
