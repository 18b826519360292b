from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from backends.errors import RepositoryError
from backends.fingerprint import current_fingerprint
from backends.manager import IndexEntry, Progress, RepositoryState, load_repository
from backends.onnx import OnnxBackend
from tests.support import models
from tests.support.models import write_model


def ticking() -> Callable[[], float]:
    """A clock that is one second later each time it is read."""
    ticks = count()
    return lambda: float(next(ticks))


def load(
    root: Path,
    seen: list[Progress] | None = None,
    clock: Callable[[], float] | None = None,
) -> RepositoryState:
    keep = seen.append if seen is not None else lambda _progress: None
    return load_repository(root, intra_op_threads=1, clock=clock or ticking(), on_progress=keep)


def test_a_model_is_opened_judged_and_warmed(tmp_path: Path) -> None:
    path = write_model(tmp_path, "m", models.linear(), 3, "[batching]\nmax_batch_size = 3")
    clock = ticking()
    [model] = load(tmp_path, clock=clock).loaded
    assert (model.name, model.version) == ("m", "3")
    assert model.batchability.max_batch_size == 3
    assert [timing.rows for timing in model.warmup_timings] == [1, 2, 3]
    assert [timing.seconds for timing in model.warmup_timings] == [1.0, 1.0, 1.0]
    assert model.warmup_problem == ""
    assert clock() == 12, "two readings for each of six runs"
    assert (model.path, model.fingerprint) == (path, current_fingerprint(path.parent))
    assert model.settings.batching.max_batch_size == 3
    assert model.backend.run([np.ones((3, 32), np.float32)])[0].shape == (3, 1)


def test_every_step_is_reported(tmp_path: Path) -> None:
    write_model(tmp_path, "a", models.linear())
    write_model(tmp_path, "b", b"")
    seen: list[Progress] = []
    load(tmp_path, seen)
    assert seen == [
        Progress("a", "1", "opening", 1, 2, ""),
        Progress("a", "1", "probing", 1, 2, ""),
        Progress("a", "1", "warming", 1, 2, ""),
        Progress("a", "1", "ready", 1, 2, ""),
        Progress("b", "1", "opening", 2, 2, ""),
        Progress(
            "b", "1", "refused", 2, 2, "model.onnx is empty; perhaps it is still being copied"
        ),
    ]


def test_warm_up_can_be_left_out(tmp_path: Path) -> None:
    write_model(tmp_path, "m", models.linear(), toml="[warmup]\nenabled = false")
    seen: list[Progress] = []
    [model] = load(tmp_path, seen).loaded
    assert model.warmup_timings == ()
    assert [progress.stage for progress in seen] == ["opening", "probing", "ready"]


def test_the_index_names_every_version_with_its_reason(tmp_path: Path) -> None:
    write_model(tmp_path, "good", models.linear(), 2, "[versions]\npolicy = 'all'")
    write_model(tmp_path, "good", models.linear(), 10)
    write_model(tmp_path, "good", b"", 9)
    write_model(tmp_path, "good", models.linear(), "01")
    write_model(tmp_path, "alone", models.cumulative_sum())
    write_model(tmp_path, "wrong", models.linear(), toml="[batch]")
    index = load(tmp_path).index()
    assert [(entry.name, entry.version, entry.state) for entry in index] == [
        ("alone", "1", "READY"),
        ("good", "10", "READY"),
        ("good", "9", "UNAVAILABLE"),
        ("good", "2", "READY"),
        ("good", "01", "UNAVAILABLE"),
        ("wrong", "", "UNAVAILABLE"),
    ]
    reasons = [entry.reason for entry in index]
    assert reasons[0].startswith("not batched: rows influence each other")
    assert reasons[1] == reasons[3] == ""
    assert "unknown section [batch]" in reasons[5]


def test_no_broken_model_takes_another_down(tmp_path: Path) -> None:
    broken = {
        "b-empty": b"",
        "b-half": models.linear()[:80],
        "b-text": b"<html>404 not found</html>",
        "b-operator": models.unknown_operator(),
        "b-opset": models.future_opset(),
        "b-weights": models.missing_external_data(),
        "b-sequence": models.sequence_output(),
    }
    for name, content in broken.items():
        write_model(tmp_path, name, content)
    write_model(tmp_path, "b-toml", models.linear(), toml="[batching")
    write_model(
        tmp_path, "b-forced", models.identity("FP32", (1,)), toml="[batching]\nmode='always'"
    )
    write_model(tmp_path, "odd name", models.linear())
    write_model(tmp_path, "a-good", models.linear())
    write_model(tmp_path, "z-good", models.linear())
    state = load(tmp_path)
    assert [model.name for model in state.loaded] == ["a-good", "z-good"]
    refused = {problem.name: problem.reason for problem in state.refused}
    assert set(refused) == {*broken, "b-toml", "b-forced", "odd name"}
    assert all(refused.values())


def test_an_unexpected_error_is_kept_as_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out_of_memory(*_: object, **__: object) -> OnnxBackend:
        raise MemoryError("no 4 GB left")

    monkeypatch.setattr(OnnxBackend, "open", run_out_of_memory)
    write_model(tmp_path, "m", models.linear())
    assert load(tmp_path).index() == [
        IndexEntry("m", "1", "UNAVAILABLE", "unexpected MemoryError: no 4 GB left")
    ]


def test_batches_end_where_warm_up_failed(tmp_path: Path) -> None:
    write_model(tmp_path, "m", models.at_most_rows(20))
    state = load(tmp_path)
    [model] = state.loaded
    assert model.batchability.max_batch_size == 16
    assert [timing.rows for timing in model.warmup_timings] == [1, 2, 4, 8, 16]
    [entry] = state.index()
    assert entry.reason.startswith("batches end at 16 rows: a batch of 32 generated rows failed: ")


def test_a_forced_batch_size_stays_and_the_index_tells(tmp_path: Path) -> None:
    write_model(tmp_path, "m", models.at_most_rows(20), toml="[batching]\nmode = 'always'")
    state = load(tmp_path)
    assert state.loaded[0].batchability.max_batch_size == 64
    assert state.index()[0].reason.startswith("a batch of 32 generated rows failed: ")


def test_a_model_that_dislikes_generated_data_is_served(tmp_path: Path) -> None:
    write_model(tmp_path, "m", models.reshape_to(3))
    state = load(tmp_path)
    assert state.index()[0].state == "READY"
    assert "no warm-up: the model failed on one generated row" in state.index()[0].reason
    assert state.loaded[0].batchability.max_batch_size == 0


def test_what_is_desired_is_kept_beside_what_is_loaded(tmp_path: Path) -> None:
    write_model(tmp_path, "good", models.linear())
    write_model(tmp_path, "bad", b"")
    state = load(tmp_path)
    assert [model.name for model in state.desired.models] == ["bad", "good"]
    assert [model.name for model in state.loaded] == ["good"]


def test_a_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError):
        load(tmp_path / "nowhere")


def configured(root: Path, pbtxt: str, model: bytes | None = None, toml: str | None = None) -> str:
    write_model(root, "m", model or models.linear(), toml=toml)
    (root / "m" / "config.pbtxt").write_text(pbtxt)
    [told] = load(root).index()
    return f"{told.name}/{told.version} {told.state} {told.reason}".strip()


def test_what_is_ignored_in_config_pbtxt_stands_in_the_index(tmp_path: Path) -> None:
    pbtxt = """
    max_batch_size: 8
    input { name: "x" data_type: TYPE_FP32 dims: 32 }
    optimization { graph { level: 1 } }
    model_warmup { name: "w" batch_size: 1 }
    """
    told = configured(tmp_path, pbtxt)
    assert told == "m/1 READY ignored in config.pbtxt: optimization, model_warmup"


def test_a_config_pbtxt_of_another_model_is_refused(tmp_path: Path) -> None:
    told = configured(tmp_path, 'input { name: "x" data_type: TYPE_INT64 dims: [ -1, 32 ] }')
    assert told == (
        "m/1 UNAVAILABLE config.pbtxt: input 'x' has datatype INT64 there, but FP32 in the model"
    )


def test_a_written_zero_means_no_batches(tmp_path: Path) -> None:
    assert configured(tmp_path, "max_batch_size: 0").endswith('batching.mode is "never"')


def test_a_max_batch_size_is_a_cap_and_the_probe_still_decides(tmp_path: Path) -> None:
    told = configured(tmp_path, "max_batch_size: 8", models.cumulative_sum())
    assert told.startswith("m/1 READY not batched: rows influence each other")
    write_model(tmp_path, "m", models.linear())
    assert load(tmp_path).loaded[0].batchability.max_batch_size == 8


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here"
)
def test_a_gpu_that_is_not_there_is_explained_and_can_be_overruled(tmp_path: Path) -> None:
    on_gpu = "instance_group { kind: KIND_GPU }"
    assert "It is config.pbtxt that asks for a GPU; `device" in configured(tmp_path, on_gpu)
    assert configured(tmp_path, on_gpu, toml="[onnxruntime]\ndevice = 'cpu'") == "m/1 READY"


def test_versions_that_a_plan_wants_are_loaded_whatever_the_policy_says(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        write_model(tmp_path, "m", models.linear(), version)
        write_model(tmp_path, "n", models.linear(), version)
    state = load_repository(
        tmp_path,
        intra_op_threads=1,
        clock=ticking(),
        on_progress=lambda _progress: None,
        versions={"m": [1, 2], "absent": [1]},
    )
    assert {(one.name, one.version) for one in state.loaded} == {("m", "1"), ("m", "2"), ("n", "3")}
    assert state.refused == ()
