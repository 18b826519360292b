"""May rows of different requests share one run of this model?

Decides by a rule on the signature, then by a probe: the same rows are run together and singly, and
must answer alike. A model that lets rows influence each other would hand one caller answers that
depend on another's data, so doubt always means no. It must never know how batches are formed.
"""

from __future__ import annotations

import re

import msgspec
import numpy as np

from backends.errors import InvalidModelInput, ModelLoadError, ModelRunError
from backends.model_settings import BatchingSettings
from backends.ports import Backend, DimensionNames, RunModel
from backends.sample_inputs import generator, has_floats, sample_inputs, working_sizes
from backends.signature import Signature, Tensor, TensorSpec

PROBE_ROWS = 5
PROBE_BATCHES = ((0, 1), (2, 3, 4), (0, 1, 2, 3, 4), (3, 0, 4, 2, 1))
"""Which rows are run together. The last is a permutation: rows must keep their answers."""

# (relative, absolute) differences that different kernels for different batch sizes may cause.
_TOLERANCES = {
    "FP64": (1e-3, 1e-5),
    "FP32": (1e-3, 1e-5),
    "FP16": (2e-2, 1e-3),
    "BF16": (5e-2, 1e-2),
}

# Exporters number dimensions that nobody named; two such numbers do not mean two different sizes.
_MACHINE_MADE = re.compile(r"unk__\d+")


class Batchability(msgspec.Struct, frozen=True):
    """The verdict on one version of a model."""

    max_batch_size: int
    """Largest batch in rows; 0 when rows of different requests must never be mixed."""
    reason: str
    """Why, in words for the index."""


def judge_batchability(backend: Backend, batching: BatchingSettings) -> Batchability:
    """Rule, then probe, unless the settings overrule both.

    Raises ``ModelLoadError`` when batching is demanded of a model that cannot take rows.
    """
    if batching.mode == "never":
        return Batchability(0, 'batching.mode is "never"')
    if batching.mode == "always":
        rowless = _without_variable_rows(backend.signature.inputs, "input")
        if rowless or not backend.signature.inputs:
            raise ModelLoadError(
                f'batching.mode is "always", but {rowless or "the model has no inputs"}'
            )
        return Batchability(batching.max_batch_size, 'batching.mode is "always"')
    problem = rule_problem(backend.signature, backend.dimension_names)
    problem = problem or probe_problem(backend.run, backend.signature)
    if problem:
        return Batchability(0, f"not batched: {problem}")
    return Batchability(batching.max_batch_size, "rows answer alike together and singly")


def rule_problem(signature: Signature, names: DimensionNames) -> str:
    """What in the signature forbids batches; empty when nothing does."""
    if not signature.inputs or not signature.outputs:
        return "the model has no inputs or no outputs"
    rowless = _without_variable_rows(signature.inputs, "input")
    rowless = rowless or _without_variable_rows(signature.outputs, "output")
    if rowless:
        return rowless
    specs = signature.inputs + signature.outputs
    owners: dict[str, str] = {}
    for spec, dimensions in zip(specs, names.inputs + names.outputs, strict=True):
        first = dimensions[0]
        if first and _MACHINE_MADE.fullmatch(first) is None:
            owners.setdefault(first, spec.name)
    if len(owners) > 1:
        named = ", ".join(f"{name!r} in {owner!r}" for name, owner in owners.items())
        return f"first dimensions have different names: {named}"
    return ""


def _without_variable_rows(specs: tuple[TensorSpec, ...], role: str) -> str:
    for spec in specs:
        if not spec.shape:
            return f"{role} {spec.name!r} has no dimension for rows"
        if spec.shape[0] != -1:
            return f"the first dimension of {role} {spec.name!r} is fixed at {spec.shape[0]}"
    return ""


def probe_problem(run: RunModel, signature: Signature) -> str:
    """What went wrong when rows were run together and singly; empty when all was alike."""
    sizes, problem = working_sizes(run, signature)
    if not sizes:
        return f"the model failed on one generated row: {problem}"
    for size in sizes:
        # Some models answer NaN to every negative number, which would hide all differences.
        for positive in (False, True) if has_floats(signature) else (False,):
            problem = _probe(run, signature, size, positive=positive)
            if problem:
                return problem
    return ""


def _probe(run: RunModel, signature: Signature, variable_size: int, *, positive: bool) -> str:
    inputs = sample_inputs(signature, PROBE_ROWS, variable_size, generator(), positive=positive)
    try:
        singles = [run(_pick(inputs, (row,))) for row in range(PROBE_ROWS)]
        for outputs in singles:
            problem = _misshapen(signature, outputs, 1)
            if problem:
                return problem
        if _different_output(signature, (0,), run(_pick(inputs, (0,))), singles):
            return "the model answers the same row differently each time"
        for rows in PROBE_BATCHES:
            together = run(_pick(inputs, rows))
            problem = _misshapen(signature, together, len(rows))
            if problem:
                return problem
            different = _different_output(signature, rows, together, singles)
            if different:
                return (
                    f"rows influence each other: output {different!r} of {len(rows)} rows "
                    "differs from single runs"
                )
    except (InvalidModelInput, ModelRunError) as error:
        return f"the model failed on generated rows: {error}"
    return ""


def _pick(inputs: list[Tensor], rows: tuple[int, ...]) -> list[Tensor]:
    return [tensor[list(rows)] for tensor in inputs]


def _misshapen(signature: Signature, outputs: list[Tensor], rows: int) -> str:
    for spec, output in zip(signature.outputs, outputs, strict=True):
        if output.ndim == 0 or output.shape[0] != rows:
            return f"output {spec.name!r} has shape {output.shape} for a batch of {rows}"
    return ""


def _different_output(
    signature: Signature,
    rows: tuple[int, ...],
    together: list[Tensor],
    singles: list[list[Tensor]],
) -> str:
    """The name of an output in which a row has another answer than it had alone."""
    for index, spec in enumerate(signature.outputs):
        for position, row in enumerate(rows):
            if not _alike(together[index][position], singles[row][index][0], spec.datatype):
                return spec.name
    return ""


def _alike(left: Tensor, right: Tensor, datatype: str) -> bool:
    if left.shape != right.shape:
        return False
    tolerance = _TOLERANCES.get(datatype)
    if tolerance is None:
        return bool(np.array_equal(left, right))
    relative, absolute = tolerance
    wanted = _as_float64(right, datatype)
    finite = np.abs(wanted[np.isfinite(wanted)])
    # Rounding grows with the largest summand, so an output near zero beside large ones may err by
    # their measure.
    absolute *= max(1.0, float(finite.max(initial=0.0)))
    return bool(
        np.allclose(
            _as_float64(left, datatype), wanted, rtol=relative, atol=absolute, equal_nan=True
        )
    )


def _as_float64(tensor: Tensor, datatype: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if datatype == "BF16":
        tensor = (np.asarray(tensor).astype(np.uint32) << 16).view(np.float32)
    return np.asarray(tensor, np.float64)
