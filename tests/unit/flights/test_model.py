"""The trees, their ONNX graph, and the folder that holds both."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import lightgbm
import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from backends.repository import scan_repository
from examples.flights.bundle import (
    Artifact,
    Bundle,
    Description,
    Parity,
    Recipe,
    Version,
    current_recipe,
    describe_model,
)
from examples.flights.features import FEATURES, Rows
from examples.flights.onnx_export import INPUT, OUTPUT, SplitMovesError, to_onnx
from examples.flights.train import ScoresDifferError, Year, compare, judge, train_version
from examples.flights.trees import (
    CODED_MONTHS,
    DESIGNS,
    TEST_MONTHS,
    Design,
    auc,
    fit,
    probabilities,
)
from tests.unit.flights.days import Days


@pytest.fixture(scope="module")
def model(small_trees: lightgbm.Booster) -> onnx.ModelProto:
    return to_onnx(small_trees)


@pytest.fixture
def bundle(
    tmp_path: Path, month: Days, small_trees: lightgbm.Booster, model: onnx.ModelProto
) -> Bundle:
    made = Bundle(tmp_path)
    versions = (1, 2)
    artifacts = [Artifact(version, model, small_trees) for version in versions]
    made.write(artifacts, description(month, small_trees, versions))
    return made


def description(month: Days, trees: lightgbm.Booster, versions: tuple[int, ...]) -> Description:
    months = judge(month.log, probabilities(trees, month.rows), trained=(7,))
    recipe = Recipe(data_sha256="d", code_sha256="c", libraries={})
    told = [Version(one, (7,), 100, 40, 31, months, Parity(1, 0.0)) for one in versions]
    return describe_model(month.codes, told, recipe)


def session(model: onnx.ModelProto, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def answers(serving: onnxruntime.InferenceSession, rows: Rows, batch: int) -> Rows:
    starts = range(0, len(rows), batch)
    return np.concatenate(
        [serving.run([OUTPUT], {INPUT: rows[start : start + batch]})[0] for start in starts]
    )


def splits_of(model: onnx.ModelProto) -> dict[int, Rows]:
    """The splits of the graph by column."""
    (trees,) = (node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
    given = {of.name: onnx.helper.get_attribute_value(of) for of in trees.attribute}
    inner = np.array([mode != b"LEAF" for mode in given["nodes_modes"]])
    column = np.array(given["nodes_featureids"])
    values = onnx.numpy_helper.to_array(given["nodes_values_as_tensor"]).astype(np.float32)
    return {int(one): values[inner & (column == one)] for one in np.unique(column[inner])}


def test_same_rows_give_the_same_trees(month: Days, small_trees: lightgbm.Booster) -> None:
    known = month.log.has_outcome
    again = fit(month.rows[known], month.log.late[known], trees=40, leaves=31)
    assert again.model_to_string() == small_trees.model_to_string()
    assert to_onnx(again).SerializeToString() == to_onnx(small_trees).SerializeToString()


def test_the_trees_have_learned_something(month: Days, small_trees: lightgbm.Booster) -> None:
    known = month.log.has_outcome
    scores = probabilities(small_trees, month.rows[known])
    assert auc(month.log.late[known], scores) > 0.75


def test_served_scores_are_lightgbms(
    month: Days, small_trees: lightgbm.Booster, model: onnx.ModelProto
) -> None:
    parity = compare(model, month.rows, probabilities(small_trees, month.rows))
    assert parity.rows >= 20_000
    assert parity.max_difference <= 1e-6


def test_scores_on_and_beside_every_split_are_lightgbms_too(
    small_trees: lightgbm.Booster, model: onnx.ModelProto
) -> None:
    # A client may send any float32. The hardest are the splits themselves and their neighbours.
    dice = np.random.default_rng(5)
    rows = np.zeros((20_000, len(FEATURES)), dtype=np.float32)
    for column, splits in splits_of(model).items():
        chosen = dice.choice(splits, len(rows))
        aside = dice.choice(np.array([-np.inf, 0.0, np.inf], dtype=np.float32), len(rows))
        rows[:, column] = np.where(aside == 0, chosen, np.nextafter(chosen, aside))
    rows[np.abs(rows) <= np.float32(1e-35)] = 0  # LightGBM reads what is that small as zero
    assert compare(model, rows, probabilities(small_trees, rows)).max_difference <= 1e-6


def test_a_row_scores_the_same_in_any_company(month: Days, model: onnx.ModelProto) -> None:
    rows = month.rows[:2_000]
    alone = answers(session(model), rows, 1)
    for threads, batch in ((1, 64), (2, 1), (2, 7), (2, 64), (2, 2_000)):
        assert np.array_equal(answers(session(model, threads), rows, batch), alone)


def test_the_graph_has_one_input_and_one_output(
    model: onnx.ModelProto, capfd: pytest.CaptureFixture[str]
) -> None:
    serving = session(model)
    (taken,), (given,) = serving.get_inputs(), serving.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("features", "tensor(float)", ["batch", 24])
    assert (given.name, given.type, given.shape) == (
        "late_probability",
        "tensor(float)",
        ["batch", 1],
    )
    for size in (1, 2, 64):
        serving.run(None, {INPUT: np.zeros((size, 24), dtype=np.float32)})
    assert capfd.readouterr() == ("", "")  # no warning from the runtime


def test_trees_whose_splits_would_move_are_refused() -> None:
    # Neighbouring float32 values leave a split no float32 between them.
    values = np.float32(0.1) + np.arange(64, dtype=np.float32) * np.spacing(np.float32(0.1))
    rows = np.repeat(values, 500)[:, None] * np.ones((1, len(FEATURES)), dtype=np.float32)
    late = np.repeat(np.arange(64) % 4 < 2, 500)
    with pytest.raises(SplitMovesError, match="splits round up"):
        to_onnx(fit(rows, late, trees=5, leaves=31))


def test_a_graph_that_answers_otherwise_is_refused(month: Days, model: onnx.ModelProto) -> None:
    with pytest.raises(ScoresDifferError, match="differ by"):
        compare(model, month.rows[:10], np.zeros(10))


def test_features_json_describes_the_model(bundle: Bundle, month: Days) -> None:
    said = bundle.describe()
    (taken,) = onnx.load(str(bundle.model(1))).graph.input
    assert taken.type.tensor_type.shape.dim[1].dim_value == len(said.features)
    assert [column.name for column in said.features] == bundle.load_trees(1).feature_name()
    assert [column.name for column in said.features] == [feature.name for feature in FEATURES]
    for category, names in said.codes.items():
        assert sorted(names.values()) == list(range(len(names)))
        given = said.category_codes.encode(category, getattr(month.log, category))
        place = [column.name for column in said.features].index(category)
        assert np.array_equal(given, month.rows[:, place])
    assert [of.version for of in said.versions] == [1, 2]
    (july,) = said.versions[0].months
    assert (july.month, july.part, july.flights) == (7, "training", month.log.has_outcome.sum())
    assert july.mean_chance == pytest.approx(july.late_share, abs=0.02)


def test_the_folder_is_a_model_repository(bundle: Bundle) -> None:
    files = {str(path.relative_to(bundle.models)) for path in bundle.models.rglob("*.*")}
    assert files == {
        "flights/1/model.onnx",
        "flights/1/lightgbm.txt",
        "flights/2/model.onnx",
        "flights/2/lightgbm.txt",
        "flights/model.toml",
        "flights/features.json",
    }
    assert tomllib.loads((bundle.folder / "model.toml").read_text()) == {
        "batching": {"max_batch_size": 64},
        "versions": {"policy": "all"},
    }


def test_the_gateway_serves_all_versions(bundle: Bundle) -> None:
    desired = scan_repository(bundle.models)
    served = desired.find("flights")
    assert served is not None
    assert {one.version: one.path for one in served.versions} == {
        "1": bundle.model(1),
        "2": bundle.model(2),
    }
    assert not desired.problems


def test_the_trees_survive_the_disk(
    bundle: Bundle, month: Days, small_trees: lightgbm.Booster
) -> None:
    rows = month.rows[:500]
    assert np.array_equal(
        probabilities(bundle.load_trees(2), rows), probabilities(small_trees, rows)
    )


def test_a_model_is_used_again_only_if_it_is_whole_and_of_this_recipe(bundle: Bundle) -> None:
    recipe = bundle.describe().recipe
    assert bundle.current(recipe) == bundle.describe()
    assert not bundle.current(msgspec.structs.replace(recipe, code_sha256="other"))
    for file in (bundle.model(1), bundle.model(2), bundle.trees(2)):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        assert not bundle.current(recipe)
        file.write_bytes(whole)
        assert bundle.current(recipe) == bundle.describe()
    bundle.description.write_text("{")
    assert not bundle.current(recipe)
    bundle.description.unlink()
    assert not bundle.current(recipe)


def test_the_recipe_is_stable_and_names_its_parts() -> None:
    recipe = current_recipe()
    assert recipe == current_recipe()
    assert len(recipe.data_sha256) == len(recipe.code_sha256) == 64
    assert set(recipe.libraries) == {"lightgbm", "onnx", "onnxmltools"}


def test_months_are_judged_by_flights_with_an_outcome(month: Days) -> None:
    known = month.log.has_outcome
    scores = np.where(month.log.late, 0.9, 0.1)
    scores[~known] = 1.0
    (judged,) = judge(month.log, scores, trained=(7,))
    assert (judged.auc, judged.flights) == (1.0, known.sum())
    assert judged.mean_chance == pytest.approx(np.mean(scores[known]), abs=1e-4)
    other = dataclasses.replace(month.log, month=np.where(np.arange(len(known)) % 2, 7, 12))
    assert [of.part for of in judge(other, scores, trained=(7,))] == ["training", "test"]


def test_versions_differ_and_none_has_seen_the_test_months() -> None:
    assert [design.version for design in DESIGNS] == [1, 2]
    first, second = DESIGNS
    assert set(first.months) < set(second.months)
    assert (first.trees, first.leaves) != (second.trees, second.leaves)
    for design in DESIGNS:
        assert max(design.months) < min(TEST_MONTHS)
        assert set(CODED_MONTHS) <= set(design.months)


def test_a_version_says_what_it_was_made_from(
    month: Days, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("examples.flights.train.TEST_MONTHS", (8,))
    log = dataclasses.replace(month.log, month=np.where(np.arange(len(month.log)) % 5, 7, 8))
    design = Design(version=3, months=(7,), trees=5, leaves=7)
    artifact, version = train_version(design, Year(log, month.codes, month.rows))
    assert (artifact.version, version.version) == (3, 3)
    assert artifact.trees.num_trees() == version.trees == 5
    trees = artifact.trees.dump_model()["tree_info"]
    assert max(tree["num_leaves"] for tree in trees) == version.leaves == 7
    assert version.training_flights == (log.has_outcome & (log.month == 7)).sum()
    assert version.parity.rows == (log.has_outcome & (log.month == 8)).sum()
    assert [(of.month, of.part) for of in version.months] == [(7, "training"), (8, "test")]
    assert "5 trees on July to July" in capsys.readouterr().out
