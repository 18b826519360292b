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
    Baseline,
    Bundle,
    Description,
    Parity,
    Recipe,
    Version,
    current_recipe,
    describe_model,
)
from examples.flights.inputs import Rows, TrainingSet
from examples.flights.onnx_export import INPUT, OUTPUT, SplitMovesError, to_onnx
from examples.flights.place import DEFINITIONS
from examples.flights.train import (
    ScoresDifferError,
    compare,
    judge,
    judge_baseline,
    mean_auc,
    train_version,
)
from examples.flights.trees import (
    DESIGNS,
    Design,
    auc,
    baseline_inputs,
    fit,
    probabilities,
    unseen_months,
)
from featurecache.manifests.applying import compile_file

WIDTH = 31


@pytest.fixture(scope="module")
def model(small_trees: lightgbm.Booster) -> onnx.ModelProto:
    return to_onnx(small_trees)


@pytest.fixture
def bundle(
    tmp_path: Path, known: TrainingSet, small_trees: lightgbm.Booster, model: onnx.ModelProto
) -> Bundle:
    made = Bundle(tmp_path)
    versions = (1, 2)
    artifacts = [Artifact(version, model, small_trees) for version in versions]
    made.write(artifacts, description(known, small_trees, versions))
    return made


def description(
    known: TrainingSet, trees: lightgbm.Booster, versions: tuple[int, ...]
) -> Description:
    months = judge(known, probabilities(trees, known.rows), trained=(7,))
    recipe = Recipe(inputs_sha256="d", code_sha256="c", libraries={})
    told = [Version(one, (7,), 100, 40, 31, months, Parity(1, 0.0)) for one in versions]
    return describe_model(known.names, told, Baseline(("minute_of_day",), months), recipe)


def in_two_months(known: TrainingSet) -> TrainingSet:
    """Every fifth flight is of August, the others of July."""
    place = np.arange(len(known.month))
    return dataclasses.replace(known, month=np.where(place % 5, 7, 8))


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


def test_same_rows_give_the_same_trees(known: TrainingSet, small_trees: lightgbm.Booster) -> None:
    again = fit(known.names, known.rows, known.late, trees=40, leaves=31)
    assert again.model_to_string() == small_trees.model_to_string()
    assert to_onnx(again).SerializeToString() == to_onnx(small_trees).SerializeToString()


def test_the_trees_have_learned_something(
    known: TrainingSet, small_trees: lightgbm.Booster
) -> None:
    assert auc(known.late, probabilities(small_trees, known.rows)) > 0.75


def test_served_scores_are_lightgbms(
    known: TrainingSet, small_trees: lightgbm.Booster, model: onnx.ModelProto
) -> None:
    parity = compare(model, known.rows, probabilities(small_trees, known.rows))
    assert parity.rows >= 20_000
    assert parity.max_difference <= 1e-6


def test_scores_on_and_beside_every_split_are_lightgbms_too(
    small_trees: lightgbm.Booster, model: onnx.ModelProto
) -> None:
    # A client may send any float32. The hardest are the splits themselves and their neighbours.
    dice = np.random.default_rng(5)
    rows = np.zeros((20_000, WIDTH), dtype=np.float32)
    for column, splits in splits_of(model).items():
        chosen = dice.choice(splits, len(rows))
        aside = dice.choice(np.array([-np.inf, 0.0, np.inf], dtype=np.float32), len(rows))
        rows[:, column] = np.where(aside == 0, chosen, np.nextafter(chosen, aside))
    rows[np.abs(rows) <= np.float32(1e-35)] = 0  # LightGBM reads what is that small as zero
    assert compare(model, rows, probabilities(small_trees, rows)).max_difference <= 1e-6


def test_a_row_scores_the_same_in_any_company(known: TrainingSet, model: onnx.ModelProto) -> None:
    rows = known.rows[:2_000]
    alone = answers(session(model), rows, 1)
    for threads, batch in ((1, 64), (2, 1), (2, 7), (2, 64), (2, 2_000)):
        assert np.array_equal(answers(session(model, threads), rows, batch), alone)


def test_the_graph_has_one_input_and_one_output(
    model: onnx.ModelProto, capfd: pytest.CaptureFixture[str]
) -> None:
    serving = session(model)
    (taken,), (given,) = serving.get_inputs(), serving.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("features", "tensor(float)", ["batch", WIDTH])
    assert (given.name, given.type, given.shape) == (
        "late_probability",
        "tensor(float)",
        ["batch", 1],
    )
    for size in (1, 2, 64):
        serving.run(None, {INPUT: np.zeros((size, WIDTH), dtype=np.float32)})
    assert capfd.readouterr() == ("", "")  # no warning from the runtime


def test_trees_whose_splits_would_move_are_refused() -> None:
    # Neighbouring float32 values leave a split no float32 between them.
    values = np.float32(0.1) + np.arange(64, dtype=np.float32) * np.spacing(np.float32(0.1))
    rows = np.repeat(values, 500)[:, None] * np.ones((1, WIDTH), dtype=np.float32)
    late = np.repeat(np.arange(64) % 4 < 2, 500)
    with pytest.raises(SplitMovesError, match="splits round up"):
        to_onnx(fit([f"x{i}" for i in range(WIDTH)], rows, late, trees=5, leaves=31))


def test_a_graph_that_answers_otherwise_is_refused(
    known: TrainingSet, model: onnx.ModelProto
) -> None:
    with pytest.raises(ScoresDifferError, match="differ by"):
        compare(model, known.rows[:10], np.zeros(10))


def test_the_description_describes_the_model(bundle: Bundle, known: TrainingSet) -> None:
    said = bundle.describe()
    (taken,) = onnx.load(str(bundle.model(1))).graph.input
    assert taken.type.tensor_type.shape.dim[1].dim_value == len(said.inputs) == WIDTH
    assert list(said.inputs) == bundle.load_trees(1).feature_name()
    assert [of.version for of in said.versions] == [1, 2]
    (july,) = said.versions[0].months
    assert (july.month, july.part, july.flights) == (7, "training", len(known.month))
    assert july.mean_chance == pytest.approx(july.late_share, abs=0.02)


def test_the_model_has_the_inputs_of_its_feature_service_in_their_order(bundle: Bundle) -> None:
    said = bundle.describe()
    _, manifest = compile_file(DEFINITIONS)
    refs = manifest.service(said.feature_service).refs
    assert [str(ref).replace(".", "__") for ref in refs] == list(said.inputs)


def test_the_folder_is_a_model_repository(bundle: Bundle) -> None:
    files = {str(path.relative_to(bundle.models)) for path in bundle.models.rglob("*.*")}
    assert files == {
        "flights/1/model.onnx",
        "flights/1/lightgbm.txt",
        "flights/2/model.onnx",
        "flights/2/lightgbm.txt",
        "flights/model.toml",
        "flights/description.json",
    }
    settings = tomllib.loads((bundle.folder / "model.toml").read_text())
    assert settings["features"]["service"] == "flights"
    assert settings["batching"] == {"max_batch_size": 64}
    assert settings["versions"] == {"policy": "all"}


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
    bundle: Bundle, known: TrainingSet, small_trees: lightgbm.Booster
) -> None:
    rows = known.rows[:500]
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
    assert len(recipe.inputs_sha256) == len(recipe.code_sha256) == 64
    assert set(recipe.libraries) == {"lightgbm", "onnx", "onnxmltools"}


def test_each_month_is_judged_by_itself(known: TrainingSet) -> None:
    both = in_two_months(known)
    scores = np.where(known.late, 0.9, 0.1)
    scores[both.month == 8] = 0.5
    july, august = judge(both, scores, trained=(7,))
    assert (july.part, august.part) == ("training", "test")
    assert (july.auc, august.auc) == (1.0, 0.5)
    assert july.flights + august.flights == len(known.month)
    assert july.mean_chance == pytest.approx(np.mean(scores[both.month == 7]), abs=1e-4)
    assert mean_auc((july, august)) == 0.5


def test_versions_differ_and_some_months_are_left_for_both() -> None:
    assert [design.version for design in DESIGNS] == [1, 2]
    first, second = DESIGNS
    assert first.months == (1, 2, 3)
    assert set(first.months) < set(second.months)
    assert (first.trees, first.leaves) != (second.trees, second.leaves)
    assert unseen_months(range(1, 13), DESIGNS) == [9, 10, 11, 12]


def test_the_baseline_knows_the_request_and_the_weather_alone(known: TrainingSet) -> None:
    names = baseline_inputs(known.names)
    assert len(names) == 3 + 8
    assert {one.partition("__")[0] for one in names} == {
        "minute_of_day",
        "day_of_week",
        "distance_miles",
        "airport_weather",
    }
    both = in_two_months(known)
    design = Design(version=1, months=(7,), trees=40, leaves=31)
    baseline = judge_baseline(both, design)
    assert list(baseline.inputs) == names
    _, version = train_version(design, both, [design])
    assert 0.6 < mean_auc(baseline.months) < mean_auc(version.months) - 0.03


def test_a_version_says_what_it_was_made_from(
    known: TrainingSet, capsys: pytest.CaptureFixture[str]
) -> None:
    both = in_two_months(known)
    design = Design(version=3, months=(7,), trees=5, leaves=7)
    artifact, version = train_version(design, both, [design])
    assert (artifact.version, version.version) == (3, 3)
    assert artifact.trees.num_trees() == version.trees == 5
    trees = artifact.trees.dump_model()["tree_info"]
    assert max(tree["num_leaves"] for tree in trees) == version.leaves == 7
    assert version.training_flights == (both.month == 7).sum()
    assert version.parity.rows == (both.month == 8).sum()
    assert [(of.month, of.part) for of in version.months] == [(7, "training"), (8, "test")]
    assert "5 trees on Jul" in capsys.readouterr().out
