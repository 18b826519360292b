"""A backend whose outputs are its inputs, shipped for tests and benches.

Decides nothing about data: what comes in goes out, refused in the same cases in which a real
runtime refuses. It must never sleep or read a clock; what a run costs is spent by a callable that
the owner injects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backends.errors import InvalidModelInput
from backends.ports import DimensionNames
from backends.signature import Signature, Tensor, TensorSpec

BeforeRun = Callable[[Sequence[Tensor]], None]


def spend_nothing(_seconds: float) -> None:
    """The default cost of a run."""


def accept(_inputs: Sequence[Tensor]) -> None:
    """The default of ``before_run``."""


class EchoBackend:
    """Answers each input as the output of the same position.

    ``spend`` is called with ``run_cost_s + rows · row_cost_s`` in each run. ``before_run`` sees
    each accepted input first and may raise ``InvalidModelInput`` or ``ModelRunError`` to make the
    run fail.
    """

    platform = "headrace_echo"

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        *,
        output_names: tuple[str, ...] | None = None,
        row_name: str | None = "rows",
        run_cost_s: float = 0.0,
        row_cost_s: float = 0.0,
        spend: Callable[[float], None] = spend_nothing,
        before_run: BeforeRun = accept,
    ) -> None:
        names = output_names or tuple(spec.name for spec in inputs)
        pairs = zip(names, inputs, strict=True)
        outputs = tuple(TensorSpec(name, spec.datatype, spec.shape) for name, spec in pairs)
        dimensions = tuple(_dimension_names(spec, row_name) for spec in inputs)
        self.signature = Signature(inputs, outputs)
        self.dimension_names = DimensionNames(dimensions, dimensions)
        self._run_cost_s = run_cost_s
        self._row_cost_s = row_cost_s
        self._spend = spend
        self._before_run = before_run

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """See ``Backend.run``."""
        self._refuse_misfits(inputs)
        self._before_run(inputs)
        rows = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
        self._spend(self._run_cost_s + rows * self._row_cost_s)
        return [tensor.copy() for tensor in inputs]

    def _refuse_misfits(self, inputs: Sequence[Tensor]) -> None:
        specs = self.signature.inputs
        if len(inputs) != len(specs):
            raise InvalidModelInput(f"the model takes {len(specs)} inputs, not {len(inputs)}")
        for spec, tensor in zip(specs, inputs, strict=True):
            if tensor.dtype != spec.dtype:
                raise InvalidModelInput(
                    f"input {spec.name!r} must be {spec.dtype}, not {tensor.dtype}"
                )
            if not _fits(tensor.shape, spec.shape):
                raise InvalidModelInput(
                    f"input {spec.name!r} must have shape {spec.shape}, not {tensor.shape}"
                )


def _fits(shape: tuple[int, ...], allowed: tuple[int, ...]) -> bool:
    return len(shape) == len(allowed) and all(
        most in (-1, size) for size, most in zip(shape, allowed, strict=True)
    )


def _dimension_names(spec: TensorSpec, row_name: str | None) -> tuple[str | None, ...]:
    return tuple(
        row_name if position == 0 and size == -1 else None
        for position, size in enumerate(spec.shape)
    )
