"""The Dockerfile and the compose file, read without an engine. `make docker-check` runs the steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from packaging.specifiers import SpecifierSet
from typer.testing import CliRunner

from gateway.settings import GatewaySettings
from headrace.__main__ import app
from scripts.dockerfile import (
    DockerfileError,
    Instruction,
    Stage,
    ignore_patterns,
    is_ignored,
    read_stages,
)
from tests.arch.checkout import ROOT, modules, pyproject, shipped_packages

STAGES = read_stages((ROOT / "Dockerfile").read_text("utf-8"))
IGNORED = ignore_patterns((ROOT / ".dockerignore").read_text("utf-8"))
TARGETS = ("cpu", "gpu")
UBUNTU_PYTHON = {"24.04": "3.12"}
COMPOSE = ROOT / "deploy" / "compose"


def image(target: str) -> Stage:
    return STAGES[target]


def python_of(base: str) -> str:
    if found := re.fullmatch(r"python:(\d+\.\d+)[\w.-]*", base):
        return found[1]
    found = re.search(r"ubuntu(\d\d\.\d\d)", base)
    assert found, base
    return UBUNTU_PYTHON[found[1]]


# -- what is built --------------------------------------------------------------------------------


def test_both_targets_exist_and_the_one_for_the_cpu_is_built_unless_told() -> None:
    assert set(TARGETS) <= STAGES.keys()
    assert list(STAGES)[-1] == "cpu"


@pytest.mark.parametrize("name", STAGES)
def test_base_images_are_pinned(name: str) -> None:
    base = STAGES[name].base
    assert base == "scratch" or re.search(r":[\w.-]*\d+\.\d+", base), f"{base} has no version"


@pytest.mark.parametrize("target", TARGETS)
def test_an_environment_is_built_where_it_runs(target: str) -> None:
    (copy,) = image(target).all("COPY")
    build = STAGES[copy.flags["from"]]
    source, place = copy.words
    assert build.base == image(target).base
    assert source == place == build.last("WORKDIR").rest + "/.venv"
    assert image(target).last("ENV").words[0] == f"PATH={place}/bin:$PATH"


@pytest.mark.parametrize("target", TARGETS)
def test_the_steps_are_those_of_make_setup(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "sh scripts/setup.sh $(FLAVOUR)" in makefile
    steps = [step.rest for step in STAGES[f"build-{target}"].all("RUN")]
    assert f"sh scripts/setup.sh {target} production" in steps
    # Nothing but that script installs Python packages, and uninstalling needs no source.
    assert not [step for step in steps if re.search(r"\b(pip|uv)\b.*\binstall\b", step)]


@pytest.mark.parametrize("target", TARGETS)
def test_pythons_of_the_images_are_ones_that_the_project_accepts(target: str) -> None:
    version = python_of(image(target).base)
    project = pyproject()["project"]
    assert version in SpecifierSet(project["requires-python"])
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


# -- what is copied -------------------------------------------------------------------------------


def copied() -> list[str]:
    return [word for copy in STAGES["checkout"].all("COPY") for word in copy.words[:-1]]


def test_every_copied_file_exists_and_reaches_the_builder() -> None:
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not is_ignored(source, IGNORED), f"{source} is kept back by .dockerignore"


def test_all_that_the_wheel_is_made_of_is_copied() -> None:
    project = pyproject()["project"]
    metadata = {"pyproject.toml", project["readme"], *project["license-files"]}
    assert set(shipped_packages()) | metadata <= set(copied())
    kept_back = [
        str(path) for path in modules(*shipped_packages()) if is_ignored(str(path), IGNORED)
    ]
    assert not kept_back


@pytest.mark.parametrize(
    "path",
    [".venv/bin/python", ".git/config", "tests/arch", "gateway/__pycache__/app.pyc", "a.pem"],
)
def test_what_is_not_needed_stays_out_of_the_context(path: str) -> None:
    assert is_ignored(path, IGNORED)


def test_nothing_comes_from_a_url() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert not re.search(r"^\s*ADD\b", text, re.MULTILINE)
    assert "://" not in text
    assert not re.search(r"\b(curl|wget|git clone)\b", text)


# -- what runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_does_not_run_as_root(target: str) -> None:
    user, _, group = image(target).last("USER").rest.partition(":")
    assert int(user) > 0, "a number, so that Kubernetes can see that it is not root"
    assert int(group) > 0
    after = image(target).instructions
    assert not [
        step for step in after[after.index(image(target).last("USER")) :] if step.name == "RUN"
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_the_exposed_ports_are_the_defaults(target: str) -> None:
    server = GatewaySettings().server
    ports = {str(server.http_port), str(server.grpc_port), str(server.admin_port)}
    assert set(image(target).last("EXPOSE").words) == ports


@pytest.mark.parametrize("target", TARGETS)
def test_the_commands_are_ones_that_headrace_has(target: str) -> None:
    (program,) = image(target).last("ENTRYPOINT").words
    health = image(target).health_command()
    assert pyproject()["project"]["scripts"].keys() >= {program, health[0]}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    served = image(target).last("CMD").words
    for words in (served, health[1:]):
        options = {name for parameter in commands[words[0]].params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
        assert CliRunner().invoke(app, [words[0], "--help"]).exit_code == 0


def test_both_images_behave_alike() -> None:
    told_apart = {"COPY", "LABEL", "RUN"}

    def behaviour(stage: Stage) -> list[Instruction]:
        return [step for step in stage.instructions if step.name not in told_apart]

    assert behaviour(image("cpu")) == behaviour(image("gpu"))
    assert image("cpu").last("STOPSIGNAL").rest == "SIGTERM"


def test_the_image_for_the_cpu_needs_no_system_package() -> None:
    assert not image("cpu").all("RUN")


# -- the compose file -----------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text("utf-8"))
    return read


def test_compose_builds_a_target_of_the_dockerfile() -> None:
    build = compose()["services"]["headrace"]["build"]
    assert (COMPOSE / build["context"]).resolve() == ROOT
    assert build["target"] in TARGETS


def test_compose_mounts_files_that_exist() -> None:
    for name, service in compose()["services"].items():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).is_file(), f"{name} mounts {source}"


def test_compose_images_are_pinned() -> None:
    images = [
        service["image"] for service in compose()["services"].values() if "build" not in service
    ]
    assert images
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images)


def test_only_the_data_ports_are_open_to_others() -> None:
    server = GatewaySettings().server
    opened = {
        port.rpartition(":")[2]
        for service in compose()["services"].values()
        for port in map(str, service["ports"])
        if not port.startswith("127.0.0.1:")
    }
    assert opened == {str(server.http_port), str(server.grpc_port)}


def test_a_container_has_the_time_that_draining_takes() -> None:
    drain = GatewaySettings().drain
    grace = compose()["services"]["headrace"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > drain.delay_s + drain.timeout_s


def test_prometheus_scrapes_the_admin_port() -> None:
    read = yaml.safe_load((COMPOSE / "prometheus.yml").read_text("utf-8"))
    targets = read["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"headrace:{GatewaySettings().server.admin_port}"]
    mounted = [volume.split(":")[1] for volume in compose()["services"]["prometheus"]["volumes"]]
    for rules in read["rule_files"]:
        assert f"/etc/prometheus/{rules}" in mounted


# -- the reader of the Dockerfile -----------------------------------------------------------------


def test_the_reader_joins_lines_and_takes_flags_off() -> None:
    stage = read_stages("FROM a:1.0 AS b\nRUN --mount=type=cache x \\\n  # why\n  && y\n")["b"]
    assert stage.instructions == [Instruction("RUN", {"mount": "type=cache"}, "x && y")]


@pytest.mark.parametrize(
    "text", ["ADD http://x /", "RUN x", "FROM a:1.0", "FROM a:1.0 AS b\nVOLUME /x"]
)
def test_the_reader_refuses_what_it_does_not_know(text: str) -> None:
    with pytest.raises(DockerfileError):
        read_stages(text)


@pytest.mark.parametrize(
    ("path", "ignored"),
    [("a", True), ("kept/x", False), ("kept/__pycache__/x", True), ("kept/x.pyc", True), ("keptx", True)],
)  # fmt: skip
def test_the_last_matching_pattern_decides(path: str, ignored: bool) -> None:
    patterns = ignore_patterns("# why\n*\n!kept/\n**/__pycache__\n**/*.pyc\n")
    assert is_ignored(path, patterns) is ignored


def test_the_docs_name_both_targets() -> None:
    page = Path(ROOT, "docs", "running.md").read_text("utf-8")
    assert "docker build" in page
    assert "--target gpu" in page
    assert "make docker-check" in page
