"""One load: what may happen to the files meanwhile, and what is left of it afterwards."""

from __future__ import annotations

import gc
import weakref
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import pytest

from backends.errors import FilesChanged, ModelLoadError
from backends.manager import LoadedModel, Loader, RepositoryState, Stage
from backends.repository import Desired, DesiredModel, DesiredVersion, Problem, scan_repository
from tests.support import models
from tests.support.models import write_model

OLD, NEW = models.linear(seed=1), models.linear(seed=2)
ROW = [np.ones((1, 32), np.float32)]


def loader() -> Loader:
    ticks = count()
    return Loader(intra_op_threads=1, clock=lambda: float(next(ticks)))


def silent(_stage: Stage, _reason: str) -> None:
    """Nobody wants to know."""


def the_version(root: Path) -> tuple[DesiredModel, DesiredVersion]:
    [model] = scan_repository(root).models
    [version] = model.versions
    return model, version


@pytest.mark.parametrize("stage", ["opening", "probing", "warming"])
def test_files_that_change_during_the_load_are_not_half_read(tmp_path: Path, stage: Stage) -> None:
    path = write_model(tmp_path, "m", OLD)

    def keep_copying(now: Stage, _reason: str) -> None:
        if now == stage:
            (path.parent / "weights.bin").write_bytes(b"more")

    with pytest.raises(FilesChanged, match="changed while it was being loaded; load it again"):
        loader().load(*the_version(tmp_path), keep_copying)
    assert isinstance(loader().load(*the_version(tmp_path), silent), LoadedModel)


def test_a_failure_amid_a_change_tells_both(tmp_path: Path) -> None:
    path = write_model(tmp_path, "m", OLD)
    look = the_version(tmp_path)
    path.write_bytes(NEW[:100])
    with pytest.raises(FilesChanged, match=r"^ONNX Runtime cannot open it: .*; its files changed"):
        loader().load(*look, silent)
    path.unlink()
    with pytest.raises(FilesChanged, match=r"^model.onnx cannot be read: .*; its files changed"):
        loader().load(*look, silent)


@pytest.mark.parametrize("part", [0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_may_still_be_copied(tmp_path: Path, part: float) -> None:
    write_model(tmp_path, "m", NEW[: int(part * len(NEW))])
    with pytest.raises(ModelLoadError, match="perhaps it is still being copied"):
        loader().load(*the_version(tmp_path), silent)


def write_weights_apart(path: Path) -> Path:
    onnx.save(
        onnx.load_from_string(NEW),
        str(path),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=8,
    )
    return path.with_name("weights.bin")


@pytest.mark.parametrize("overwrite", [bytes(132), b""])
def test_weights_that_are_overwritten_do_not_reach_what_is_served(
    tmp_path: Path, overwrite: bytes
) -> None:
    weights = write_weights_apart(write_model(tmp_path, "m", b""))
    (weights.parent / "notes.txt").write_text("not named by the model")
    model = loader().load(*the_version(tmp_path), silent)
    [before] = model.backend.run(ROW)
    with weights.open("r+b") as file:  # in place, as cp does it
        file.truncate(len(overwrite))
        file.write(overwrite)
    np.testing.assert_array_equal(model.backend.run(ROW)[0], before)


@pytest.mark.parametrize("size_bytes", [None, 0, 100])
def test_weights_that_are_cut_short_may_still_be_copied(
    tmp_path: Path, size_bytes: int | None
) -> None:
    weights = write_weights_apart(write_model(tmp_path, "m", b""))
    whole = weights.read_bytes()
    weights.unlink()
    if size_bytes is not None:
        weights.write_bytes(whole[:size_bytes])
    with pytest.raises(ModelLoadError, match="perhaps it is still being copied"):
        loader().load(*the_version(tmp_path), silent)
    weights.write_bytes(whole)
    loader().load(*the_version(tmp_path), silent)


def test_a_load_ends_between_two_steps_when_nobody_wants_it(tmp_path: Path) -> None:
    class NotWantedAnyMore(BaseException):
        pass

    def stop(stage: Stage, _reason: str) -> None:
        if stage == "probing":
            raise NotWantedAnyMore

    write_model(tmp_path, "m", OLD)
    with pytest.raises(NotWantedAnyMore):
        loader().attempt(*the_version(tmp_path), stop)


def test_a_failed_attempt_remembers_what_was_tried(tmp_path: Path) -> None:
    write_model(tmp_path, "m", b"")
    model, version = the_version(tmp_path)
    seen: list[tuple[Stage, str]] = []
    outcome = loader().attempt(model, version, lambda *step: seen.append(step))
    reason = "model.onnx is empty; perhaps it is still being copied"
    assert outcome == Problem("m", "1", reason, version.fingerprint)
    assert seen == [("opening", ""), ("refused", reason)]


def test_a_loaded_version_knows_what_it_came_from(tmp_path: Path) -> None:
    path = write_model(tmp_path, "m", OLD)
    model, version = the_version(tmp_path)
    found = loader().load(model, version, silent)
    assert (found.path, found.fingerprint) == (path, version.fingerprint)


def test_a_session_goes_with_the_last_reference_to_it(tmp_path: Path) -> None:
    write_model(tmp_path, "m", OLD)
    empty = RepositoryState(Desired((), ()), (), ())
    state = empty.with_loaded(loader().load(*the_version(tmp_path), silent))
    alive = weakref.ref(state.loaded[0].backend)
    gc.disable()  # no collector may have to come by: the process sweeps seldom
    try:
        run = state.loaded[0].backend.run
        state = state.without("m", "1")
        assert run(ROW)
        assert alive() is not None, "somebody still runs it"
        del run
        assert alive() is None
    finally:
        gc.enable()
