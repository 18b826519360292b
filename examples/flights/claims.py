"""What the demo claims about a running gateway, checked as it is measured.

Decides how much is asked and what has to be true of the answers. It must never report a figure of
answers that were wrong: each function returns figures only if its claim holds, and raises
``WrongAnswerError`` if not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

import numpy as np
from tritonclient.utils import InferenceServerException

from examples.flights.bundle import MODEL_NAME
from examples.flights.callers import PATH, Caller, RestByHand, TritonGrpc, request_text
from examples.flights.features import Rows
from examples.flights.questions import Questions
from examples.flights.stopwatch import time_calls
from examples.flights.trees import auc

TOLERANCE = 1e-6
"""Largest accepted difference between an answer and LightGBM's probability."""
SINGLE_CALLS = 300
BATCH_CALLS = 10
BATCH_ROWS = 1_000
"""More than the model's largest batch, so that the gateway has to split."""

_JUDGED_PER_CALL = 500
_WARMUP_CALLS = 20
_LIMIT_S = 60.0
_MISSPELT = "fligths"


class WrongAnswerError(Exception):
    """The gateway does not do what the demo claims."""


@dataclass(frozen=True)
class Front:
    """What one front did: times of single rows and of one large call, and its answers, float32 [N].

    ``difference`` is the largest distance of an answer from LightGBM's.
    """

    name: str
    p50_ms: float
    p99_ms: float
    batch_ms: float
    difference: float
    answers: Rows


@dataclass(frozen=True)
class Judgement:
    """One version's served answers and LightGBM's own, on the same flights: AUC and mean chance to be late."""

    version: int
    flights: int
    late_share: float
    mean_chance: float
    served_auc: float
    lightgbm_auc: float


@dataclass(frozen=True)
class Refusal:
    """What was wrong, how the gateway called it, and what it said."""

    what: str
    status: str
    message: str


def measure_front(caller: Caller, questions: Questions) -> Front:
    """Ask single rows and large calls; every answer must be LightGBM's."""
    singles = [questions.rows[[one]] for one in range(SINGLE_CALLS)]
    large = [questions.rows[:BATCH_ROWS]] * BATCH_CALLS
    single = time_calls(caller.ask, singles, warmup=_WARMUP_CALLS, limit_s=_LIMIT_S)
    batch = time_calls(caller.ask, large, warmup=1, limit_s=_LIMIT_S)
    answers = np.concatenate([single.answers, batch.answers])
    expected = np.concatenate(
        [questions.expected[:SINGLE_CALLS], np.tile(questions.expected[:BATCH_ROWS], BATCH_CALLS)]
    )
    difference = float(np.abs(answers - expected).max())
    if not difference <= TOLERANCE:
        raise WrongAnswerError(f"{caller.name} answers {difference:.1e} beside LightGBM")
    return Front(caller.name, single.p50_ms, single.p99_ms, batch.p50_ms, difference, answers)


def check_agreement(fronts: list[Front]) -> float:
    """The largest distance between two fronts' answers to the same rows."""
    answers = np.stack([front.answers for front in fronts])
    apart = float(np.ptp(answers, axis=0).max())
    if not apart <= TOLERANCE:
        raise WrongAnswerError(f"the fronts differ by {apart:.1e} on the same rows")
    return apart


def check_versions(caller: TritonGrpc, questions: Questions) -> tuple[Judgement, ...]:
    """Ask each version by its number about all flights and compare with what became of them.

    A call that names none must be answered by the newest.
    """
    judgements, answers = [], questions.rows[:0, 0]
    for version in sorted(questions.by_version):
        answers = _all_answers(caller, questions, str(version))
        expected = questions.by_version[version]
        difference = float(np.abs(answers - expected).max())
        if not difference <= TOLERANCE:
            raise WrongAnswerError(f"version {version} answers {difference:.1e} beside LightGBM")
        judgements.append(
            Judgement(
                version=version,
                flights=len(answers),
                late_share=float(questions.late.mean()),
                mean_chance=float(answers.mean(dtype=np.float64)),
                served_auc=auc(questions.late, answers),
                lightgbm_auc=auc(questions.late, expected),
            )
        )
    if not np.array_equal(_all_answers(caller, questions, ""), answers):
        raise WrongAnswerError("a call that names no version is not answered by the newest")
    return tuple(judgements)


def _all_answers(caller: TritonGrpc, questions: Questions, version: str) -> Rows:
    ends = range(_JUDGED_PER_CALL, len(questions.rows), _JUDGED_PER_CALL)
    ask = partial(caller.ask, version=version)
    chunks = np.split(questions.rows, ends)
    return time_calls(ask, chunks, warmup=0, limit_s=_LIMIT_S).answers


def check_refusals(rest: RestByHand, grpc: TritonGrpc, rows: Rows) -> tuple[Refusal, ...]:
    """Two mistakes that people make. Each must be refused, with a reason that names it."""
    return (_too_few_columns(rest, rows[:1, :-1]), _unknown_model(grpc, rows[:1]))


def _too_few_columns(rest: RestByHand, rows: Rows) -> Refusal:
    status, text = rest.post(PATH, request_text(rows))
    what = f"{rows.shape[1]} values for a flight instead of {rows.shape[1] + 1}, over REST"
    message = _error_of(text)
    if status != 400 or str(rows.shape[1]) not in message:
        raise WrongAnswerError(f"{what}: HTTP {status}, {text[:500]}")
    return Refusal(what, f"HTTP {status}", message)


def _unknown_model(grpc: TritonGrpc, rows: Rows) -> Refusal:
    what = f"a model called {_MISSPELT!r} instead of {MODEL_NAME!r}, over gRPC"
    try:
        grpc.ask(rows, model=_MISSPELT)
    except InferenceServerException as error:
        status, message = str(error.status()), str(error.message())
    else:
        raise WrongAnswerError(f"{what}: answered as if it existed")
    if not status.endswith("NOT_FOUND") or _MISSPELT not in message:
        raise WrongAnswerError(f"{what}: {status}, {message[:500]}")
    return Refusal(what, status.removeprefix("StatusCode."), message)


def _error_of(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
