"""Which versions of a model can stand for each other: those that callers cannot tell apart by what they send.

Decides by signatures and by whether rows are batched. It must never open a model.
"""

from __future__ import annotations

from gateway.ports import Servable


def difference(one: Servable, other: Servable) -> str:
    """In what a caller would notice that ``one`` answers in ``other``'s place; empty where he would not."""
    for what, mine, theirs in (
        ("inputs", one.signature.inputs, other.signature.inputs),
        ("outputs", one.signature.outputs, other.signature.outputs),
    ):
        if mine != theirs:
            return f"its {what} are {_shown(mine)}, and those of version {other.version} are {_shown(theirs)}"
    if bool(one.max_batch_size) != bool(other.max_batch_size):
        batched, alone = (one, other) if one.max_batch_size else (other, one)
        return f"version {batched.version} takes batches, and version {alone.version} does not"
    return ""


def _shown(specs: tuple[object, ...]) -> str:
    return ", ".join(
        f"{one.name} {one.datatype} {list(one.shape)}"  # type: ignore[attr-defined]
        for one in specs
    )
