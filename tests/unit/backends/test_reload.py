"""Repositories that change while they are served: real files, real models, no waiting."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np

from backends.changes import changes
from backends.fingerprint import current_fingerprint
from backends.manager import (
    Loader,
    Progress,
    RepositoryState,
    Stage,
    load_repository,
)
from backends.repository import Desired, Problem, scan_repository
from tests.support import models
from tests.support.models import write_model

OLD, NEW = models.linear(seed=1), models.linear(seed=2)
ROW = [np.ones((1, 32), np.float32)]


def clock() -> Callable[[], float]:
    ticks = count()
    return lambda: float(next(ticks))


def loader() -> Loader:
    return Loader(intra_op_threads=1, clock=clock())


def silent(_stage: Stage, _reason: str) -> None:
    """Nobody wants to know."""


def start(
    root: Path,
    only: set[str] | None = None,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> RepositoryState:
    return load_repository(
        root, intra_op_threads=1, clock=clock(), on_progress=on_progress, only=only
    )


def poll(root: Path, state: RepositoryState) -> RepositoryState:
    """One round of a poll, as a process with one worker would do it."""
    before, look = state.desired, scan_repository(root, before=state.desired)
    plan = changes(look, state, before=before)
    state = state.with_desired(look)
    failed = set()
    for key in plan.load:
        model = look.find(key.name)
        assert model is not None
        version = model.find(key.version)
        assert version is not None
        outcome = loader().attempt(model, version, silent)
        failed |= {key.name} if isinstance(outcome, Problem) else set()
        state = state.with_outcome(outcome)
    for key in plan.unload:
        if key.name not in failed:
            state = state.without(key.name, key.version)
    return state


def index(state: RepositoryState) -> list[str]:
    return [f"{one.name}/{one.version} {one.state} {one.reason}".strip() for one in state.index()]


# ---- a version that arrives -------------------------------------------------------------------


def test_a_version_that_is_copied_in_is_loaded_once_it_is_complete(tmp_path: Path) -> None:
    write_model(tmp_path, "m", OLD)
    state = start(tmp_path)
    path = write_model(tmp_path, "m", b"", 2)
    seen = []
    for size_bytes in (0, 100, 200, len(NEW)):
        path.write_bytes(NEW[:size_bytes])
        state = poll(tmp_path, state)
        seen.append([one.version for one in state.loaded])
        assert not state.refused
    assert seen == [["1"], ["1"], ["1"], ["1"]]
    state = poll(tmp_path, state)
    assert index(state) == ["m/2 READY", "m/1 UNAVAILABLE unloaded"]


def test_a_copy_that_stalls_is_tried_once_told_and_tried_again_when_it_goes_on(
    tmp_path: Path,
) -> None:
    write_model(tmp_path, "m", OLD)
    state = start(tmp_path)
    path = write_model(tmp_path, "m", NEW[:100], 2)
    state = poll(tmp_path, state)
    assert index(state) == ["m/2 UNAVAILABLE not loaded", "m/1 READY"]
    state = poll(tmp_path, state)
    failed, kept = index(state)
    reason = "not complete; perhaps it is still being copied"
    assert failed.startswith("m/2 UNAVAILABLE ")
    assert failed.endswith(reason)
    assert kept.startswith("m/1 READY version kept; load of version 2 failed: ")
    assert kept.endswith(reason)
    assert changes(state.desired, state, before=state.desired).load == ()
    path.write_bytes(NEW)
    state = poll(tmp_path, poll(tmp_path, state))
    assert index(state) == ["m/2 READY", "m/1 UNAVAILABLE unloaded"]


def test_a_folder_without_its_file_takes_nothing_away(tmp_path: Path) -> None:
    write_model(tmp_path, "m", OLD)
    state = start(tmp_path)
    path = write_model(tmp_path, "m", NEW, 2)
    path.unlink()
    state = poll(tmp_path, poll(tmp_path, state))
    missing, kept = index(state)
    assert missing.endswith("m/2/model.onnx is missing")
    assert kept.startswith("m/1 READY version kept; load of version 2 failed: ")
    path.write_bytes(NEW)
    assert index(poll(tmp_path, poll(tmp_path, state)))[0] == "m/2 READY"


def test_another_file_under_the_same_number_takes_its_place(tmp_path: Path) -> None:
    path = write_model(tmp_path, "m", OLD)
    state = start(tmp_path)
    [before] = state.loaded
    path.write_bytes(models.mlp(outputs=1))
    assert poll(tmp_path, state).loaded == state.loaded
    state = poll(tmp_path, poll(tmp_path, state))
    [after] = state.loaded
    assert before.fingerprint != after.fingerprint == current_fingerprint(path.parent)
    assert not np.array_equal(before.backend.run(ROW)[0], after.backend.run(ROW)[0])
    assert index(state) == ["m/1 READY"]


def test_a_broken_file_under_the_same_number_leaves_the_old_one_ready(tmp_path: Path) -> None:
    path = write_model(tmp_path, "m", OLD)
    state = start(tmp_path)
    path.write_bytes(b"<html>404 not found</html>")
    state = poll(tmp_path, poll(tmp_path, state))
    [told] = index(state)
    assert told.startswith("m/1 READY version kept; reload failed: ONNX Runtime cannot open it")
    assert state.loaded[0].backend.run(ROW)[0].shape == (1, 1)
    path.write_bytes(OLD)
    state = poll(tmp_path, poll(tmp_path, state))
    assert index(state) == ["m/1 READY"]


def test_files_that_come_back_unchanged_end_the_complaint(tmp_path: Path) -> None:
    path = write_model(tmp_path, "m", OLD)
    state = start(tmp_path)
    path.rename(tmp_path / "aside")
    path.write_bytes(b"broken")
    state = poll(tmp_path, poll(tmp_path, state))
    assert "kept" in index(state)[0]
    (tmp_path / "aside").rename(path)
    assert index(poll(tmp_path, state)) == ["m/1 READY"]


def test_new_settings_reload_and_broken_ones_keep(tmp_path: Path) -> None:
    write_model(tmp_path, "m", OLD, toml="[batching]\nmax_batch_size = 8")
    state = start(tmp_path)
    settings = tmp_path / "m" / "model.toml"
    settings.write_text("[batching]\nmax_batch = 16")
    state = poll(tmp_path, poll(tmp_path, state))
    [told] = index(state)
    assert told.startswith("m/1 READY version kept; reload failed: ")
    assert "unknown key `batching.max_batch`" in told
    assert state.loaded[0].batchability.max_batch_size == 8
    settings.write_text("[batching]\nmax_batch_size = 16")
    state = poll(tmp_path, poll(tmp_path, state))
    assert state.loaded[0].batchability.max_batch_size == 16


def test_a_model_that_is_removed_goes_at_the_second_look(tmp_path: Path) -> None:
    write_model(tmp_path, "m", OLD)
    write_model(tmp_path, "n", OLD)
    state = start(tmp_path)
    shutil.rmtree(tmp_path / "m")
    state = poll(tmp_path, state)
    assert [one.name for one in state.loaded] == ["m", "n"]
    state = poll(tmp_path, state)
    assert index(state) == ["n/1 READY"]


def test_many_generations_do_not_lengthen_the_index(tmp_path: Path) -> None:
    write_model(tmp_path, "m", OLD, toml="[warmup]\nenabled = false")
    state = start(tmp_path)
    for number in range(2, 5):
        write_model(tmp_path, "m", OLD, number)
        state = poll(tmp_path, poll(tmp_path, state))
    assert index(state) == ["m/4 READY", "m/3 UNAVAILABLE unloaded"]


# ---- the start, and what is asked for by name -----------------------------------------------------


def test_a_start_can_be_limited_to_some_models(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_model(tmp_path, name, OLD)
    seen: list[Progress] = []
    state = start(tmp_path, {"b", "missing"}, seen.append)
    assert index(state) == [
        "a/1 UNAVAILABLE not loaded",
        "b/1 READY",
        "c/1 UNAVAILABLE not loaded",
        f"missing/ UNAVAILABLE it is not in the model repository {tmp_path}",
    ]
    assert {(step.name, step.position, step.total) for step in seen} == {("b", 1, 1)}
    assert start(tmp_path, set()).loaded == ()


def test_a_start_looks_again_at_what_changed_since_its_look(tmp_path: Path) -> None:
    write_model(tmp_path, "a", OLD)
    path = write_model(tmp_path, "b", OLD[:100])
    write_model(tmp_path, "c", OLD)

    def copy_meanwhile(progress: Progress) -> None:
        if (progress.name, progress.stage) == ("a", "probing"):
            path.write_bytes(OLD)
            (tmp_path / "b" / "model.toml").write_text("[batching]\nmax_batch_size = 2")
            shutil.rmtree(tmp_path / "c")

    state = start(tmp_path, on_progress=copy_meanwhile)
    assert index(state) == ["a/1 READY", "b/1 READY"]
    assert state.loaded[1].batchability.max_batch_size == 2
    assert changes(scan_repository(tmp_path), state).load == ()


def test_states_do_not_change_in_place(tmp_path: Path) -> None:
    write_model(tmp_path, "m", OLD)
    state = start(tmp_path)
    [one] = state.loaded
    state.without("m", "1")
    state.with_refused(Problem("m", "1", "no"))
    state.with_desired(Desired((), ()))
    assert state.loaded == (one,)
    assert index(state) == ["m/1 READY"]


def test_an_unloaded_version_is_told_until_it_is_loaded_again(tmp_path: Path) -> None:
    write_model(tmp_path, "m", OLD)
    state = start(tmp_path)
    [one] = state.loaded
    gone = state.with_refused(Problem("m", "1", "a reload failed", "x")).without("m", "1")
    assert index(gone) == ["m/1 UNAVAILABLE unloaded"]
    assert index(gone.with_desired(gone.desired)) == ["m/1 UNAVAILABLE unloaded"]
    assert index(gone.with_loaded(one)) == ["m/1 READY"]
    assert index(gone.with_desired(Desired((), ()))) == []
