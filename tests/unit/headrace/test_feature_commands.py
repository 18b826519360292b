from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace.__main__ import app

DEFINITIONS = """
from featurecache.definitions import *
project = Project("demo")
user = Entity("user", keys={"uid": String})
profile = FeatureView("profile", entity=user, columns=[Column("x", Float32)], max_age="90s",
                      retention="2d", cache_ttl="1m", owner="ops",
                      source=ParquetSource("*.parquet", event_time="at"))
pushed = FeatureView("pushed", entity=user, columns=[Column("y", Float32)])
service = FeatureService("scores", inputs=[profile["x"]], owner="science")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    return tmp_path


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["features", *words])
    assert result.exit_code == code, result.output
    return result


def test_apply_tells_what_changed_and_what_to_do_next(folder: Path) -> None:
    first = run("apply", "definitions.py")
    assert "features/manifest.json is now revision 1" in first.stdout
    assert first.stderr == "next: headrace features load profile --data FOLDER\n"
    assert "nothing changed" in run("apply", "definitions.py").stdout
    (folder / "definitions.py").write_text(DEFINITIONS.replace('"90s"', '"2m"'))
    dry = run("apply", "definitions.py", "--dry-run").stdout
    assert "view 'profile' changed" in dry
    assert "would become revision 2" in dry
    assert "is now revision 2" in run("apply", "definitions.py").stdout


def test_apply_refuses_with_code_2(folder: Path) -> None:
    assert "none.py" in run("apply", "none.py", code=2).stderr
    run("apply", "definitions.py")
    (folder / "definitions.py").write_text(DEFINITIONS.replace('"x", Float32', '"x", Float64'))
    assert "give it another name" in run("apply", "definitions.py", code=2).stderr
    run("apply", "definitions.py", "--force")


def test_list_shows_the_four_times_and_owners() -> None:
    run("apply", "definitions.py")
    text = run("list").stdout
    line = next(one for one in text.splitlines() if one.startswith("profile"))
    assert line.split() == ["profile", "user", "1", "40", "90s", "2d", "1m", "0s", "ops"]
    assert re.search(r"scores +1 +science", text)
    assert json.loads(run("list", "--json").stdout)["project"] == "demo"


def test_the_manifest_is_found_by_option_setting_or_custom(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "headrace features apply" in run("list", code=2).stderr
    elsewhere = run("apply", "definitions.py", "--to", "elsewhere")
    assert elsewhere.stderr.endswith("--data FOLDER --manifest elsewhere\n")
    run("list", "--manifest", "elsewhere")
    run("list", "--manifest", "elsewhere/manifest.json")
    monkeypatch.setenv("HEADRACE_FEATURES_MANIFEST", "elsewhere")
    run("list")


def test_commands_refuse_what_they_cannot_do() -> None:
    run("apply", "definitions.py")
    store = ("--store", "redis://127.0.0.1:1")
    for words, told in (
        (("load", "profil"), "no feature view 'profil'"),
        (("load", "profile", *store), "no file matches"),
        (("load", "pushed", *store), "headrace features push"),
        (("load", "profile", "--data", "none", *store), "is no folder"),
        (("get", "nothing", "uid=1", *store), "neither a feature view"),
        (("get", "profile", "uid", *store), "write NAME=VALUE"),
        (("get", "profile", "id=1", *store), "'id' is none of its keys"),
        (("get", "scores", *store), "needs the join key uid=…"),
        (("get", "scores", "uid=1", "z=2", *store), "no join key 'z'"),
        (("push", "profile", "--row", "{", *store), "row 1 is no JSON"),
        (("push", "profile", "--row", "{}", *store), "'uid' is missing"),
    ):
        assert told in run(*words, code=2).stderr


def test_a_store_that_is_not_there_is_code_1() -> None:
    run("apply", "definitions.py")
    store = ("--store", "redis://:secret@127.0.0.1:1")
    for words in (("get", "profile", "uid=1"), ("inspect", "profile", "uid=1")):
        said = run(*words, *store, code=1).stderr
        assert "cannot be reached" in said
        assert "secret" not in said
    said = run("get", "profile", "uid=1", "--store", "http://:secret@x", code=2).stderr
    assert said.startswith("headrace: --store: ")
    assert "must begin with" in said
    assert "secret" not in said


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    run("apply", "definitions.py")
    for name in [one for one in sys.modules if one.startswith(("featurecache.", "pyarrow"))]:
        if name in (
            "featurecache.writing.loader",
            "featurecache.writing.parquet_source",
            "featurecache.offline.arrow_columns",
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'headrace[features]'" in run("load", "profile", code=2).stderr


@pytest.mark.parametrize(
    "command", ["apply", "list", "load", "push", "get", "inspect", "training-set", "verify"]
)
def test_help_teaches_with_an_example(command: str) -> None:
    assert f"Try it:  headrace features {command}" in run(command, "--help").stdout


def test_a_push_of_no_lines_is_a_mistake() -> None:
    run("apply", "definitions.py")
    result = CliRunner().invoke(
        app, ["features", "push", "pushed", "--store", "redis://127.0.0.1:1"], input="\n \n"
    )
    assert result.exit_code == 2
    assert "no rows came by standard input" in result.stderr


def test_only_a_load_goes_on_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    run("apply", "definitions.py")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("featurecache.manifests.manifest.Manifest.view", interrupt)
    store = ("--store", "redis://127.0.0.1:1")
    assert run("push", "pushed", "--row", "{}", *store, code=130).stderr.endswith(": interrupted\n")
    assert run("load", "profile", *store, code=130).stderr.endswith("the same command goes on\n")
