from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.batchability import (
    Batchability,
    judge_batchability,
    probe_problem,
    rule_problem,
)
from backends.echo import EchoBackend
from backends.errors import InvalidModelInput, ModelLoadError, ModelRunError
from backends.model_settings import BatchingSettings, OnnxRuntimeSettings
from backends.onnx import OnnxBackend
from backends.ports import DimensionNames
from backends.signature import Signature, Tensor, TensorSpec
from tests.support import models

Compute = Callable[[Any], Any]
"""A model of one input and one output; Any, since this is arithmetic on FP32 and INT64 alike."""

AUTO = BatchingSettings(max_batch_size=16)


def opened(tmp_path: Path, model: bytes) -> OnnxBackend:
    path = models.write_model(tmp_path, "m", model)
    return OnnxBackend.open(path, OnnxRuntimeSettings(), intra_op_threads=1)


def judged(tmp_path: Path, model: bytes) -> Batchability:
    return judge_batchability(opened(tmp_path, model), AUTO)


@pytest.mark.parametrize(
    "model",
    [
        models.linear(),
        models.mlp(),
        models.add_two_inputs(),
        models.multi_output(),
        models.mixed_inputs(),
        models.embedding(),
        models.logarithm(),
        models.slow_matmul(2),
        models.shrinking_image(),
        models.bfloat16_to_float(),
    ],
    ids="linear mlp two multi mixed embedding log matmul image bfloat16".split(),
)
def test_models_that_treat_rows_alone_are_batched(tmp_path: Path, model: bytes) -> None:
    assert judged(tmp_path, model) == Batchability(16, "rows answer alike together and singly")


@pytest.mark.parametrize("datatype", models.ELEMENT_TYPES)
def test_every_datatype_can_be_batched(tmp_path: Path, datatype: str) -> None:
    assert judged(tmp_path, models.identity(datatype)).max_batch_size == 16


@pytest.mark.parametrize(
    "model",
    [
        models.normalise_over_batch(),
        models.maximum_over_batch(),
        models.cumulative_sum(),
        models.row_number(),
        models.softmax_over_sequence(),
        models.scrambled_columns(),
    ],
    ids="mean maximum cumulative position sequence scrambled".split(),
)
def test_models_that_mix_rows_are_found(tmp_path: Path, model: bytes) -> None:
    verdict = judged(tmp_path, model)
    assert verdict.max_batch_size == 0
    assert verdict.reason.startswith("not batched: rows influence each other: output 'y' of ")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (models.fixed_output_rows(), "the first dimension of output 'y' is fixed at 1"),
        (models.reduce_over_batch(), "the first dimension of output 'y' is fixed at 1"),
        (models.reshape_to(4), "the first dimension of output 'y' is fixed at 4"),
        (models.identity("FP32", (1, 4)), "the first dimension of input 'x' is fixed at 1"),
        (models.identity("FP32", ()), "input 'x' has no dimension for rows"),
        (models.scalar_output(), "output 'y' has no dimension for rows"),
        (
            models.rows_and_table(),
            "first dimensions have different names: 'n' in 'queries', 'm' in 'keys'",
        ),
        (models.random_answers(), "the model answers the same row differently each time"),
    ],
)
def test_what_forbids_batches_is_said(tmp_path: Path, model: bytes, reason: str) -> None:
    assert judged(tmp_path, model) == Batchability(0, f"not batched: {reason}")


def test_a_model_that_dislikes_generated_data_is_not_batched(tmp_path: Path) -> None:
    verdict = judged(tmp_path, models.embedding(vocabulary=1))
    assert verdict.max_batch_size == 0
    assert verdict.reason.startswith("not batched: the model failed on generated rows: Gather node")


# ---- the mode ------------------------------------------------------------------------------------


def test_never_is_obeyed_without_a_run() -> None:
    backend = EchoBackend((TensorSpec("x", "FP32", (-1,)),), before_run=refuse_to_run)
    verdict = judge_batchability(backend, BatchingSettings(mode="never"))
    assert verdict == Batchability(0, 'batching.mode is "never"')


def test_always_is_obeyed_without_a_run() -> None:
    backend = EchoBackend((TensorSpec("x", "FP32", (-1,)),), before_run=refuse_to_run)
    verdict = judge_batchability(backend, BatchingSettings(mode="always", max_batch_size=8))
    assert verdict == Batchability(8, 'batching.mode is "always"')


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((4,), "the first dimension of input 'x' is fixed at 4"), ((), "no dimension for rows")],
)
def test_always_cannot_be_obeyed_without_variable_rows(shape: tuple[int, ...], reason: str) -> None:
    backend = EchoBackend((TensorSpec("x", "FP32", shape),))
    with pytest.raises(ModelLoadError, match=f'batching.mode is "always", but .*{reason}'):
        judge_batchability(backend, BatchingSettings(mode="always"))


def refuse_to_run(_inputs: Sequence[Tensor]) -> None:
    raise AssertionError("nothing should have been run")


# ---- the rule ------------------------------------------------------------------------------------


def rule(*first: str | None) -> str:
    """The rule for one input and outputs whose first dimensions have these names."""
    specs = [TensorSpec(f"t{i}", "FP32", (-1, 2)) for i in range(len(first))]
    names = [(name, None) for name in first]
    return rule_problem(
        Signature(tuple(specs[:1]), tuple(specs[1:])),
        DimensionNames(tuple(names[:1]), tuple(names[1:])),
    )


def test_one_name_everywhere_passes() -> None:
    assert rule("n", "n", "n") == ""


def test_missing_names_are_left_to_the_probe() -> None:
    assert rule("n", None, "n") == ""
    assert rule(None, None) == ""


def test_numbers_that_exporters_invent_are_no_names() -> None:
    assert rule("unk__6", "unk__7") == ""
    assert rule("batch", "unk__7") == ""


def test_two_names_do_not_pass() -> None:
    assert rule("n", "m") == "first dimensions have different names: 'n' in 't0', 'm' in 't1'"


def test_a_model_needs_inputs_and_outputs() -> None:
    assert rule("n") == "the model has no inputs or no outputs"


# ---- the probe -----------------------------------------------------------------------------------


def probe(compute: Compute, datatype: str = "FP32", shape: tuple[int, ...] = (-1, 3)) -> str:
    spec = TensorSpec("x", datatype, shape)
    return probe_problem(
        lambda inputs: [compute(inputs[0])], Signature((spec,), (TensorSpec("y", datatype, shape),))
    )


def test_small_differences_between_kernels_are_forgiven() -> None:
    assert probe(lambda x: x * np.float32(1 + 1e-4 * len(x))) == ""


def test_noise_beside_large_numbers_is_forgiven() -> None:
    large = np.array([1e4, 0, 0], np.float32)
    assert probe(lambda x: x * 0 + large + np.float32(1e-3) * len(x)) == ""


def test_larger_differences_are_not() -> None:
    assert "of 2 rows differs" in probe(lambda x: x * np.float32(1 + 1e-2 * len(x)))


def test_half_precision_is_given_more_room() -> None:
    assert probe(lambda x: (x * (1 + 2e-3 * len(x))).astype(np.float16), "FP16") == ""
    assert probe(lambda x: (x * (1 + 9e-2 * len(x))).astype(np.float16), "FP16") != ""


def test_integers_must_agree_exactly() -> None:
    assert probe(lambda x: x * 10**6 + (len(x) > 3), "INT64").startswith("rows influence")


def quiet_log(x: Any) -> Any:
    with np.errstate(invalid="ignore"):
        return np.log(x)


def test_not_a_number_agrees_with_itself() -> None:
    assert probe(quiet_log) == ""


def test_influence_that_negative_numbers_hide_is_found() -> None:
    def with_mean(x: Any) -> Any:
        return quiet_log(x) - quiet_log(x).mean(axis=0)

    assert "of 2 rows differs" in probe(with_mean)


def test_influence_that_shows_only_in_the_order_is_found() -> None:
    def sorted_rows(x: Any) -> Any:
        return x[np.argsort(x[:, 0])]

    assert probe(sorted_rows).startswith("rows influence each other")


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (lambda x: x[:1], "output 'y' has shape (1, 3) for a batch of 2"),
        (lambda x: x.sum(), "output 'y' has shape () for a batch of 1"),
        (lambda x: np.concatenate([x, x]), "output 'y' has shape (2, 3) for a batch of 1"),
        (lambda x: x[x[:, 0] > 0.5], "output 'y' has shape (0, 3) for a batch of 1"),
        (lambda x: x[:, : len(x)], "rows influence each other"),
        (lambda x: x if len(x) < 3 else x.T[:2], "output 'y' has shape (2, 3) for a batch of 3"),
    ],
)
def test_answers_must_have_one_row_for_each_row(compute: Compute, reason: str) -> None:
    assert probe(compute).startswith(reason)


def test_a_failure_with_several_rows_is_the_reason() -> None:
    def only_single(x: Any) -> Any:
        if len(x) > 1:
            raise ModelRunError("no batches, please")
        return x

    assert probe(only_single) == "the model failed on generated rows: no batches, please"


def test_a_failure_with_every_input_is_the_reason() -> None:
    def fail(_x: Any) -> Any:
        raise InvalidModelInput("must be a date")

    assert probe(fail) == "the model failed on one generated row: must be a date"


def test_a_model_that_answers_at_random_is_told_apart() -> None:
    random = np.random.default_rng(1)
    assert probe(lambda x: x + random.random(x.shape)).startswith("the model answers the same row")
