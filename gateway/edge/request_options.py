"""What a caller asks for besides an answer: by when, as part of what, which outputs and how.

Decides what the protocol's parameters mean here, for both wires, and which of its options are not
offered. It must never read a clock: the caller brings the time.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.signature import Signature
from gateway.edge.input_layout import quote
from gateway.errors import ErrorCode, HeadraceError, invalid
from gateway.messages import NO_DEADLINE_S
from gateway.ports import Servable


def deadline_s(target: Servable, timeout_us: int | None, now: float) -> float:
    """When the answer is of no more use, in the seconds of ``now``.

    ``timeout_us`` is the ``timeout`` parameter, in microseconds: 0 asks for no deadline, None
    leaves it to the model's default.
    """
    if timeout_us is None:
        return now + target.default_timeout_s
    return now + timeout_us / 1e6 if timeout_us else NO_DEADLINE_S


def refuse_sequence(
    model: str, sequence_id: int | str | None, start: bool | None, end: bool | None
) -> None:
    """Raises INVALID_ARGUMENT when the request is part of a sequence: no model here keeps state.

    Triton's clients leave these out, or send the id 0, for a request that stands alone.
    """
    if sequence_id or start or end:
        raise invalid(
            f"model {quote(model)} keeps no state between requests: "
            "send no sequence_id, sequence_start or sequence_end"
        )


def refuse_shared_memory(what: str) -> HeadraceError:
    """Why a tensor (``what``) cannot be passed through shared memory."""
    return HeadraceError(
        ErrorCode.UNIMPLEMENTED,
        f"{what} names a shared_memory_region; shared memory is not offered here, "
        "send the tensor itself",
    )


def refuse_output_options(name: str, classification: object, region: object) -> None:
    """Raises UNIMPLEMENTED for a wanted output with an option that is not offered.

    ``classification`` counts classes, so 0 and None ask for nothing; ``region`` is the name of a
    shared memory region, or None.
    """
    if classification:
        raise HeadraceError(
            ErrorCode.UNIMPLEMENTED,
            f"output {quote(name)} asks for classification, which is not offered here; "
            "ask for the tensor and rank it",
        )
    if region is not None:
        raise refuse_shared_memory(f"output {quote(name)}")


def unknown_output(model: str, signature: Signature, name: str) -> HeadraceError:
    """Why the output cannot be had: the model has no such one."""
    names = ", ".join(map(quote, signature.output_index)) or "none"
    return invalid(f"{quote(name)} is not an output of model {quote(model)}, which gives {names}")


def refuse_load_parameters(names: Iterable[str]) -> None:
    """Raises INVALID_ARGUMENT for any parameter of a load: what is served lies in the repository's folder."""
    for name in names:
        if name == "config" or name.startswith("file:"):
            raise invalid(
                f"parameter {quote(name)}: file-override loads are refused; "
                "put the files into the repository's folder"
            )
        raise invalid(f"{quote(name)} is not a parameter of a load, which takes none")


def refuse_unload_parameters(names: Iterable[str]) -> None:
    """Raises INVALID_ARGUMENT for any but ``unload_dependents``, which means nothing: no model depends on another."""
    for name in names:
        if name != "unload_dependents":
            raise invalid(
                f"{quote(name)} is not a parameter of an unload, which takes unload_dependents"
            )
