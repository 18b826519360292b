"""What the demo claims about a running gateway, checked as it is measured.

Decides how much is asked and what has to be true of the answers. It must never report a figure of
answers that were wrong: each function returns figures only if its claim holds, and raises
``WrongAnswerError`` if not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

from examples.flights.bundle import MODEL_NAME
from examples.flights.callers import (
    PATH,
    Asked,
    Caller,
    RestByHand,
    TritonGrpc,
    request_text,
    some_of,
)
from examples.flights.inputs import Rows
from examples.flights.replay import push_body
from examples.flights.stopwatch import time_calls
from examples.flights.trees import Floats

TOLERANCE = 1e-6
"""Largest accepted difference between an answer and LightGBM's probability."""
SINGLE_CALLS = 300
BATCH_CALLS = 10
BATCH_ROWS = 1_000
"""More than the model's largest batch, so that the gateway has to split."""
UNKNOWN_PLANE = "N0NE"

_WARMUP_CALLS = 20
_LIMIT_S = 60.0
_MISSPELT = "fligths"
_LEFT_OUT = "tailnum"


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
class Stranger:
    """One flight with its own plane and with an unknown one.

    Chances with either; with the unknown one the status of each view, and the share of values that are defaults.
    """

    place: int
    known: float
    unknown: float
    statuses: Mapping[str, str]
    defaulted_fraction: float


@dataclass(frozen=True)
class Refusal:
    """What was wrong, how the gateway called it, and what it said."""

    what: str
    status: str
    message: str


def check_answers(what: str, answers: Rows, expected: Floats) -> float:
    """The largest distance of ``answers`` from ``expected`` (LightGBM's on the training-set rows), [N] each."""
    if answers.shape != expected.shape:
        raise WrongAnswerError(f"{what} gives {answers.shape} answers for {expected.shape} flights")
    apart = np.abs(answers - expected)
    difference = float(apart.max())
    if not difference <= TOLERANCE:
        place = int(apart.argmax())
        raise WrongAnswerError(
            f"{what} answers {answers[place]:.6f} for flight {place}, offline it is {expected[place]:.6f}"
        )
    return difference


def measure_front(caller: Caller, asked: Asked, expected: Floats) -> Front:
    """Ask single rows and large calls; every answer must be LightGBM's for the offline row."""
    size = len(expected)
    one_by_one = np.arange(SINGLE_CALLS) % size
    many = np.arange(BATCH_ROWS) % size
    singles = [some_of(asked, [one]) for one in one_by_one]
    large = [some_of(asked, many)] * BATCH_CALLS
    single = time_calls(caller.ask, singles, warmup=_WARMUP_CALLS, limit_s=_LIMIT_S)
    batch = time_calls(caller.ask, large, warmup=1, limit_s=_LIMIT_S)
    answers = np.concatenate([single.answers, batch.answers])
    wanted = expected[np.concatenate([one_by_one, np.tile(many, BATCH_CALLS)])]
    difference = check_answers(caller.name, answers, wanted)
    return Front(caller.name, single.p50_ms, single.p99_ms, batch.p50_ms, difference, answers)


def check_agreement(fronts: list[Front]) -> float:
    """The largest distance between two fronts' answers to the same rows."""
    answers = np.stack([front.answers for front in fronts])
    apart = float(np.ptp(answers, axis=0).max())
    if not apart <= TOLERANCE:
        raise WrongAnswerError(f"the fronts differ by {apart:.1e} on the same rows")
    return apart


def check_versions(
    caller: TritonGrpc, asked: Asked, by_version: Mapping[int, Floats]
) -> dict[int, float]:
    """Ask each version by its number; its mean chance. A call that names none must be answered by the newest."""
    means = {}
    for version in sorted(by_version):
        answers = caller.ask(asked, version=str(version))
        check_answers(f"version {version}", answers, by_version[version])
        means[version] = float(answers.mean(dtype=np.float64))
    newest = max(by_version)
    if not np.array_equal(caller.ask(asked), caller.ask(asked, version=str(newest))):
        raise WrongAnswerError("a call that names no version is not answered by the newest")
    return means


def push(rest: RestByHand, view: str, rows: list[Mapping[str, Any]]) -> int:
    """Push rows over REST; how many the store took. Rows of a moment that had not come before are all newer."""
    outcome = rest.answer(f"/v2/features/{view}/push", push_body(rows))
    taken = sum(int(outcome.get(name, 0)) for name in ("created", "newer", "rewritten"))
    if taken != len(rows):
        raise WrongAnswerError(
            f"{len(rows)} rows of {view} were pushed, and the store took {outcome}"
        )
    return taken


def check_stranger(rest: RestByHand, asked: Asked, expected: Floats) -> Stranger:
    """The flight whose chance an unknown plane changes most.

    With the unknown plane both views of the plane must be MISSING; the answer must still come.
    """
    tails = np.full_like(asked[_LEFT_OUT], UNKNOWN_PLANE.encode())
    told = rest.ask_with_status({**asked, _LEFT_OUT: tails})
    place = int(np.argmax(np.abs(told.chances - expected)))
    one = rest.ask_with_status(some_of({**asked, _LEFT_OUT: tails}, [place]))
    statuses = {view: next(iter(seen["status"])) for view, seen in one.report["views"].items()}
    missing = [view for view in ("plane", "plane_last_leg") if statuses.get(view) != "MISSING"]
    if missing:
        raise WrongAnswerError(f"plane {UNKNOWN_PLANE} is unknown, but {missing} says {statuses}")
    return Stranger(
        place,
        float(expected[place]),
        float(one.chances[0]),
        statuses,
        float(one.report["defaulted_fraction"]),
    )


def check_refusals(rest: RestByHand, grpc: TritonGrpc, asked: Asked) -> tuple[Refusal, ...]:
    """Two mistakes that people make. Each must be refused, with a reason that names it."""
    one = some_of(asked, [0])
    return (_key_left_out(rest, one), _unknown_model(grpc, one))


def _key_left_out(rest: RestByHand, asked: Asked) -> Refusal:
    rest_of_it = {name: values for name, values in asked.items() if name != _LEFT_OUT}
    status, text = rest.post(PATH, request_text(rest_of_it))
    what = f"a flight without its {_LEFT_OUT}, over REST"
    message = _error_of(text)
    if status != 400 or _LEFT_OUT not in message:
        raise WrongAnswerError(f"{what}: HTTP {status}, {text[:500]}")
    return Refusal(what, f"HTTP {status}", message)


def _unknown_model(grpc: TritonGrpc, asked: Asked) -> Refusal:
    what = f"a model called {_MISSPELT!r} instead of {MODEL_NAME!r}, over gRPC"
    try:
        grpc.ask(asked, model=_MISSPELT)
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
