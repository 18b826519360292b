"""docs/features.md works as written, up to ``END`` of the page. Ages, rates and moments may differ."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurecache.manifests.applying import apply_definitions
from tests.support.page_shell import BLOCK, CHECKOUT, WITHIN_S, Shell, is_as_shown, steps_of
from tests.support.redis_servers import ValkeyServer
from tests.support.store_users import ServerSeen

PAGE = CHECKOUT / "docs" / "features.md"
END = "\n## The four times\n"
MAY_DIFFER = re.compile(
    r"\d[\d,.]*(?= s\b| rows/s\b)|(?<='worst_age_s': )\d[\d.]*|\b\d{4}-\d\d-\d\dT[\d:.]+Z"
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the page makes its folder; no private store survives it."""
    yield tmp_path
    for state_dir in tmp_path.glob("*/.headrace"):
        with ServerSeen(state_dir):
            pass


def test_the_page_works_as_written(folder: Path) -> None:
    page, end, _ = PAGE.read_text("utf-8").partition(END)
    assert end, "the page's end is not where it was"
    with Shell(folder, "docs/features.md", MAY_DIFFER) as shell:
        for step in steps_of(page):
            if step.path:
                shell.save(step)
            else:
                shell.run(step)
    (state_dir,) = folder.glob("*/.headrace")
    assert not ServerSeen(state_dir).is_there, "the private store is still there"


def test_the_definitions_of_the_readme_can_be_applied(tmp_path: Path) -> None:
    blocks = [found[2] for found in BLOCK.finditer((CHECKOUT / "README.md").read_text("utf-8"))]
    (definitions,) = (block for block in blocks if "FeatureService(" in block)
    file = tmp_path / "definitions.py"
    file.write_text(definitions)
    applied = apply_definitions(file, tmp_path / "features")
    assert [len(one.refs) for one in applied.manifest.services] == [3]


def test_the_rights_that_the_page_names_are_enough(tmp_path: Path) -> None:
    page = PAGE.read_text("utf-8")
    for step in steps_of(page.partition(END)[0]):
        if step.path in ("definitions.py", "make_data.py"):
            (tmp_path / step.path).write_text(step.text)

    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], cwd=tmp_path, check=True, timeout=WITHIN_S)

    def rights(what: str) -> list[str]:
        found = re.search(rf"^\| {re.escape(what)} \|.*?`(.*?)` \|$", page, re.MULTILINE)
        assert found is not None, what
        return found[1].replace("\\|", "|").split()

    push, look = rights("`push`"), rights("`get`, `inspect`, `verify`")
    users = {"pusher": push, "loader": push + rights("`load`"), "looker": look}
    run("make_data.py")
    run("-m", "headrace", "features", "apply", "definitions.py")
    with ValkeyServer() as store:
        with store.client() as client:
            for name, granted in users.items():
                client.execute_command("ACL", "SETUSER", name, "on", ">s3cret", *granted)
        for name, command in (
            ("loader", "load --data data"),
            ("looker", "verify --data data"),
            ("looker", "get airport_weather origin=JFK"),
            ("looker", "inspect airport_weather origin=JFK"),
            ("pusher", 'push airport_weather --row {"origin":"JFK","temp":1,"wind":2}'),
        ):
            url = f"redis://{name}:s3cret@127.0.0.1:{store.port}"
            run("-m", "headrace", "features", *command.split(), "--store", url)


def test_what_differs_is_noticed() -> None:
    assert _is_as_shown("6.7 minutes, 1,240.7 s", "6.70001   minutes, 3.2 s")
    assert _is_as_shown(
        "1 file: 3 created (0.0 s, 20 rows/s)", "1 file: 3 created (1.5 s, 9 rows/s)"
    )
    assert not _is_as_shown("6.7 minutes", "7.7 minutes")
    assert not _is_as_shown("3 created", "2 created")
    assert not _is_as_shown("{'PRESENT': 1}", "{'STALE': 1}")
    assert not _is_as_shown("", "Traceback")
    assert not _is_as_shown("ready", "")


def _is_as_shown(shown: str, said: str) -> bool:
    return is_as_shown(shown, said, MAY_DIFFER)
