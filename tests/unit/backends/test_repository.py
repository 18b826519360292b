from __future__ import annotations

from pathlib import Path

import pytest

import backends.repository
from backends.errors import RepositoryError
from backends.model_settings import BatchingSettings, ModelSettings, Sections, read_model_settings
from backends.repository import (
    Desired,
    DesiredVersion,
    is_settled,
    scan_model,
    scan_repository,
)
from tests.support.models import write_model

MODEL = b"not opened here"


def versions(desired: Desired) -> dict[str, list[str]]:
    return {model.name: [v.version for v in model.versions] for model in desired.models}


def problems(desired: Desired) -> list[tuple[str, str]]:
    return [(problem.name, problem.version) for problem in desired.problems]


def reason(desired: Desired) -> str:
    [problem] = desired.problems
    return problem.reason


def test_an_empty_repository_wants_nothing(tmp_path: Path) -> None:
    assert scan_repository(tmp_path) == Desired((), ())


def test_the_newest_version_is_the_highest_number(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        write_model(tmp_path, "m", MODEL, version)
    desired = scan_repository(tmp_path)
    assert versions(desired) == {"m": ["10"]}
    assert desired.models[0].settings == ModelSettings()
    assert desired.models[0].versions[0].path == tmp_path / "m" / "10" / "model.onnx"
    assert desired.problems == ()


def test_models_stand_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a.b-c_D9", "A"):
        write_model(tmp_path, name, MODEL)
    assert list(versions(scan_repository(tmp_path))) == ["A", "a.b-c_D9", "b"]


@pytest.mark.parametrize(
    ("toml", "wanted"),
    [
        ("[versions]\nlatest = 2", ["7", "3"]),
        ("[versions]\nlatest = 9", ["7", "3", "1"]),
        ("[versions]\npolicy = 'all'", ["7", "3", "1"]),
        ("[versions]\npolicy = 'specific'\nspecific = [1, 3]", ["3", "1"]),
    ],
)
def test_the_policy_picks_the_versions(tmp_path: Path, toml: str, wanted: list[str]) -> None:
    for version in (1, 3, 7):
        write_model(tmp_path, "m", MODEL, version, toml)
    desired = scan_repository(tmp_path)
    assert versions(desired) == {"m": wanted}
    assert desired.problems == ()


def test_a_specific_version_that_is_not_there_is_a_problem_of_its_own(tmp_path: Path) -> None:
    toml = "[versions]\npolicy = 'specific'\nspecific = [2, 5]"
    write_model(tmp_path, "m", MODEL, 2, toml)
    desired = scan_repository(tmp_path)
    assert versions(desired) == {"m": ["2"]}
    assert problems(desired) == [("m", "5")]
    assert reason(desired) == "version 5 is wanted, but not there (found: 2)"


def test_other_entries_are_ignored(tmp_path: Path) -> None:
    path = write_model(tmp_path, "m", MODEL, 1)
    for name in ("draft", ".4", "5.bak", "-1", "٣"):
        write_model(tmp_path, "m", MODEL, name)
    (path.parents[1] / "6").write_text("a file")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.md").write_text("a file")
    assert scan_repository(tmp_path) == Desired(scan_repository(tmp_path).models, ())
    assert versions(scan_repository(tmp_path)) == {"m": ["1"]}


@pytest.mark.parametrize("version", ["01", "0", "000"])
def test_leading_zeros_are_refused(tmp_path: Path, version: str) -> None:
    write_model(tmp_path, "m", MODEL, 1)
    write_model(tmp_path, "m", MODEL, version)
    desired = scan_repository(tmp_path)
    assert versions(desired) == {"m": ["1"]}
    assert problems(desired) == [("m", version)]
    assert "begins with a zero" in reason(desired)


def test_a_missing_model_file_is_a_problem_of_that_version(tmp_path: Path) -> None:
    write_model(tmp_path, "m", MODEL, 1, "[versions]\npolicy = 'all'")
    write_model(tmp_path, "m", MODEL, 2).unlink()
    write_model(tmp_path, "m", MODEL, 3).unlink()
    (tmp_path / "m" / "3" / "model.onnx").mkdir()
    desired = scan_repository(tmp_path)
    assert versions(desired) == {"m": ["1"]}
    assert problems(desired) == [("m", "3"), ("m", "2")]
    assert desired.problems[1].reason.endswith("m/2/model.onnx is missing")


def test_a_version_that_nobody_wants_has_no_problems(tmp_path: Path) -> None:
    write_model(tmp_path, "m", MODEL, 1).unlink()
    write_model(tmp_path, "m", MODEL, 2)
    assert scan_repository(tmp_path).problems == ()


def test_a_model_without_versions_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    desired = scan_repository(tmp_path)
    assert desired.models == ()
    assert problems(desired) == [("m", "")]
    assert "no version folder" in reason(desired)


def test_bad_settings_are_a_problem_of_that_model_alone(tmp_path: Path) -> None:
    write_model(tmp_path, "bad", MODEL, 1, "[batching]\nmax_batch = 3")
    write_model(tmp_path, "good", MODEL, 1)
    desired = scan_repository(tmp_path)
    assert versions(desired) == {"good": ["1"]}
    assert problems(desired) == [("bad", "")]
    assert "unknown key `batching.max_batch`" in reason(desired)


@pytest.mark.parametrize("name", ["a b", "naïve", "a:b", "a%2Fb", "a\nb"])
def test_an_odd_name_is_a_problem_of_that_model(tmp_path: Path, name: str) -> None:
    write_model(tmp_path, name, MODEL)
    write_model(tmp_path, "good", MODEL)
    desired = scan_repository(tmp_path)
    assert versions(desired) == {"good": ["1"]}
    assert "may hold only letters, digits, '_', '.' and '-'" in reason(desired)


def test_a_name_that_is_no_text_can_still_be_shown(tmp_path: Path) -> None:
    write_model(tmp_path, "caf\udce9", MODEL)  # the byte 0xE9, which is not UTF-8
    [problem] = scan_repository(tmp_path).problems
    assert problem.name == "caf\\udce9"
    problem.reason.encode("utf-8")


def test_links_are_followed(tmp_path: Path) -> None:
    elsewhere = write_model(tmp_path / "elsewhere", "m", MODEL, 4)
    root = tmp_path / "root"
    root.mkdir()
    (root / "whole").symlink_to(elsewhere.parents[1])
    (root / "version").mkdir()
    (root / "version" / "1").symlink_to(elsewhere.parent)
    (root / "file" / "1").mkdir(parents=True)
    (root / "file" / "1" / "model.onnx").symlink_to(elsewhere)
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    desired = scan_repository(root)
    assert versions(desired) == {"file": ["1"], "version": ["1"], "whole": ["4"]}
    assert desired.problems == ()


def test_a_root_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"the model repository .*/nowhere does not exist"):
        scan_repository(tmp_path / "nowhere")


def test_a_root_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match="/file is not a folder"):
        scan_repository(tmp_path / "file")


def the_version(root: Path, name: str = "m") -> DesiredVersion:
    model = scan_repository(root).find(name)
    assert model is not None
    [version] = model.versions
    return version


def test_a_look_at_one_model_finds_what_a_look_at_all_finds(tmp_path: Path) -> None:
    write_model(tmp_path, "bad", MODEL, 1, "[batch]")
    write_model(tmp_path, "half", MODEL, 1, "[versions]\npolicy = 'all'")
    write_model(tmp_path, "half", MODEL, 2).unlink()
    write_model(tmp_path, "good", MODEL)
    whole = scan_repository(tmp_path)
    pieced = Desired((), ())
    for name in ("half", "good", "bad"):
        pieced = pieced.with_model(name, *scan_model(tmp_path, name))
    assert pieced.models == whole.models
    assert set(pieced.problems) == set(whole.problems)
    assert pieced.names == {"bad", "good", "half"}


@pytest.mark.parametrize("name", ["other", "", ".", "..", "../m", "m/1", ".hidden", "a\0b", "m\n"])
def test_a_name_that_is_not_in_the_repository_has_neither_model_nor_problem(
    tmp_path: Path, name: str
) -> None:
    write_model(tmp_path / "root", "m", MODEL)
    write_model(tmp_path / "root", ".hidden", MODEL)
    write_model(tmp_path, "m", MODEL)
    assert scan_model(tmp_path / "root", name) == (None, [])


def test_a_look_at_one_model_needs_the_root_too(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError):
        scan_model(tmp_path / "nowhere", "m")


def test_versions_can_be_asked_for_whatever_the_policy_says(tmp_path: Path) -> None:
    write_model(tmp_path, "m", MODEL, 1, "[warmup]\nruns = 7")
    for version in (2, 3):
        write_model(tmp_path, "m", MODEL, version)
    model, found = scan_model(tmp_path, "m", versions=[1, 2, 9])
    assert model is not None
    assert [one.version for one in model.versions] == ["2", "1"]
    assert model.settings.warmup.runs == 7
    assert [(one.version, one.reason) for one in found] == [
        ("9", "version 9 is wanted, but not there (found: 3, 2, 1)")
    ]
    # It is the same version, as far as its files go.
    newest, _ = scan_model(tmp_path, "m", versions=[3])
    assert newest is not None
    assert newest.versions[0] == the_version(tmp_path)


def test_a_model_that_is_gone_leaves_the_desired_set(tmp_path: Path) -> None:
    write_model(tmp_path, "m", MODEL)
    desired = scan_repository(tmp_path)
    assert desired.find("m") is not None
    assert desired.with_model("n", *scan_model(tmp_path, "n")) == desired
    gone = desired.with_model("m", None, [])
    assert gone == Desired((), ())
    assert gone.find("m") is None


def test_files_are_settled_when_two_looks_find_them_alike(tmp_path: Path) -> None:
    path = write_model(tmp_path, "m", b"the first hal")
    first = the_version(tmp_path)
    assert not is_settled(None, first)
    path.write_bytes(b"the first half and the second")
    second = the_version(tmp_path)
    assert not is_settled(first, second)
    assert is_settled(second, the_version(tmp_path))


def test_new_settings_are_a_change_of_every_version(tmp_path: Path) -> None:
    write_model(tmp_path, "m", MODEL)
    before = the_version(tmp_path)
    (tmp_path / "m" / "model.toml").write_text("[warmup]\nruns = 3")
    assert not is_settled(before, the_version(tmp_path))


def test_settings_are_parsed_again_only_when_their_files_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path, "m", MODEL, 1, "[warmup]\nruns = 3")
    first = scan_repository(tmp_path)
    parsed: list[Path] = []

    def read(path: Path, below: Sections | None) -> ModelSettings:
        parsed.append(path)
        return read_model_settings(path, below)

    monkeypatch.setattr(backends.repository, "read_model_settings", read)
    assert scan_repository(tmp_path, before=first) == first
    assert parsed == []
    (tmp_path / "m" / "model.toml").write_text("[warmup]\nruns = 30")
    changed = scan_repository(tmp_path, before=first).find("m")
    assert changed is not None
    assert changed.settings.warmup.runs == 30


def test_a_config_pbtxt_counts_where_there_is_one(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        path = write_model(tmp_path, "m", MODEL, version)
        path.rename(path.with_name("net.onnx"))
    (tmp_path / "m" / "config.pbtxt").write_text(
        "max_batch_size: 8 default_model_filename: 'net.onnx' optimization { }"
        "version_policy { specific { versions: [ 1, 3 ] } }"
    )
    desired = scan_repository(tmp_path)
    assert desired.problems == ()
    assert versions(desired) == {"m": ["3", "1"]}
    [model] = desired.models
    assert model.settings.batching.max_batch_size == 8
    assert model.versions[0].path == tmp_path / "m" / "3" / "net.onnx"
    assert model.triton is not None
    assert model.triton.ignored == ("optimization",)


def test_model_toml_wins_over_config_pbtxt(tmp_path: Path) -> None:
    write_model(tmp_path, "m", MODEL, 1, "[batching]\nmax_batch_size = 4")
    pbtxt = "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 7 }"
    (tmp_path / "m" / "config.pbtxt").write_text(pbtxt)
    [model] = scan_repository(tmp_path).models
    assert model.settings.batching == BatchingSettings(max_batch_size=4, max_queue_delay_us=7)


def test_a_bad_config_pbtxt_is_a_problem_of_that_model_alone(tmp_path: Path) -> None:
    for name in ("bad", "good"):
        write_model(tmp_path, name, MODEL)
    (tmp_path / "bad" / "config.pbtxt").write_text("max_batch_size: 8\ninput [")
    desired = scan_repository(tmp_path)
    assert versions(desired) == {"good": ["1"]}
    assert problems(desired) == [("bad", "")]
    assert "bad/config.pbtxt: line 2, column 8: " in reason(desired)


# -- versions that somebody else wants ------------------------------------------------------------


@pytest.mark.parametrize(
    "toml", [None, "[versions]\npolicy = 'all'", "[versions]\npolicy = 'specific'\nspecific = [7]"]
)
def test_wanted_versions_count_whatever_the_policy_says(tmp_path: Path, toml: str | None) -> None:
    for version in (1, 3, 7):
        write_model(tmp_path, "m", MODEL, version, toml)
        write_model(tmp_path, "n", MODEL, version, toml)
    found = scan_repository(tmp_path, versions={"m": [1, 3], "nobody": [1]})
    by_policy = versions(scan_repository(tmp_path))["n"]
    assert versions(found) == {"m": ["3", "1"], "n": by_policy}
    assert found.problems == ()
    one, _ = scan_model(tmp_path, "m", versions=[1, 3])
    assert one == found.find("m")
    again = scan_repository(tmp_path, before=found, versions={"m": [7]})
    assert versions(again)["m"] == ["7"], "settings that are remembered change nothing"


def test_a_wanted_version_that_is_not_there_hinders_no_other(tmp_path: Path) -> None:
    write_model(tmp_path, "m", MODEL, 1)
    found = scan_repository(tmp_path, versions={"m": [1, 9]})
    assert versions(found) == {"m": ["1"]}
    assert problems(found) == [("m", "9")]
    assert scan_model(tmp_path, "m", versions=[9])[0] is None


@pytest.mark.parametrize(("wanted", "found"), [([], {}), ([1, 1], {"m": ["1"]})])
def test_wanting_nothing_or_something_twice_is_possible(
    tmp_path: Path, wanted: list[int], found: dict[str, list[str]]
) -> None:
    """A plan may name versions that are no numbers, or "1" and "01": no start may fail for that."""
    write_model(tmp_path, "m", MODEL, 1)
    assert versions(scan_repository(tmp_path, versions={"m": wanted})) == found
