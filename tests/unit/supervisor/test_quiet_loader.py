"""Who pays for a load: the loading thread steps back, and nothing else does."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from backends.manager import LoadedModel, Report, Stage
from backends.repository import Problem, scan_repository
from gateway.supervisor.quiet_loader import NICER_BY, QuietLoader
from tests.support import models
from tests.support.models import write_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness there")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def load(root: Path, threads: int, report: Report, toml: str = "") -> LoadedModel | Problem:
    write_model(root, "m", models.linear(), toml=toml)
    [model] = scan_repository(root).models
    loader = QuietLoader(intra_op_threads=threads, clock=time.perf_counter)
    return loader.attempt(model, model.versions[0], report)


@pytest.mark.parametrize(
    ("threads", "toml", "steps_back"),
    [
        (1, "", True),
        (2, "[onnxruntime]\nintra_op_threads = 1\n", True),
        (2, "", False),
        (1, "[onnxruntime]\nintra_op_threads = 2\n", False),
        (1, '[onnxruntime]\nexecution_mode = "parallel"\ninter_op_threads = 2\n', False),
    ],
)
def test_the_load_steps_back_unless_the_threads_of_the_model_would_too(
    tmp_path: Path, threads: int, toml: str, steps_back: bool
) -> None:
    ours, seen = niceness(), set[int]()

    def look(_stage: Stage, _reason: str) -> None:
        seen.add(niceness())

    assert isinstance(load(tmp_path, threads, look, toml), LoadedModel)
    assert seen == {min(19, ours + NICER_BY) if steps_back else ours}
    assert niceness() == ours


def test_what_a_report_raises_ends_the_load_for_whoever_asked(tmp_path: Path) -> None:
    class EnoughError(BaseException):
        """Nobody wants the model any more."""

    def stop(_stage: Stage, _reason: str) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        load(tmp_path, 1, stop)


def test_a_bad_model_is_a_problem_as_ever(tmp_path: Path) -> None:
    def ignore(_stage: Stage, _reason: str) -> None:
        """Nobody wants to know."""

    write_model(tmp_path, "m", b"no model")
    [model] = scan_repository(tmp_path).models
    loader = QuietLoader(intra_op_threads=1, clock=time.perf_counter)
    assert isinstance(loader.attempt(model, model.versions[0], ignore), Problem)
