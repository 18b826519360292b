"""docs/rollouts.md works as written, up to ``END`` of the page. Moments, chance and random names may differ."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.page_shell import CHECKOUT, Shell, is_as_shown, steps_of
from tests.support.store_users import ServerSeen

PAGE = CHECKOUT / "docs" / "rollouts.md"
END = "\n## What a plan says\n"
MAY_DIFFER = re.compile(
    r"""
    \b\d{4}-\d\d-\d\d[ ][\d:]+(?:Z|[ ]UTC)?                 # moments
  | \d[\d,.]*(?=[ ](?:s|samples|of[ ][\d,]+[ ]in|minutes)\b)  # ages and counts
  | (?<=version[ ]\d:[ ])\d+                                 # users are dealt anew by every salt
  | (?<=by[ ])0\.\d+(?=[ ]\()                               # what follows from these counts
  | \d[\d.]*[ ]%[ ]+\d+(?=[ ]+0\.000%)                        # measured, requests
  | (?<=HARMFUL[ ]{2})\d+\.\d+%                                 # a tenth of the requests, more or less
  | \b[0-9a-f]{64}\b|(?<=price-)[0-9a-f]{8}\b|(?<=[(]id[ ])[0-9a-f]{12}\b
  | ^\S+-\d+-[0-9a-f]{8}\b                                     # a gateway
    """,
    re.VERBOSE | re.MULTILINE,
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
    with Shell(folder, "docs/rollouts.md", MAY_DIFFER) as shell:
        for step in steps_of(page):
            if step.path:
                shell.save(step)
            else:
                shell.run(step)
    (state_dir,) = folder.glob("*/.headrace")
    assert not ServerSeen(state_dir).is_there, "the private store is still there"


@pytest.mark.parametrize(
    ("shown", "said", "is_same"),
    [
        ("version 1: 766, version 2: 234", "version 1: 751, version 2: 249", True),
        ("price: promoted, revision 4", "price: promoted, revision 5", False),
        ("samples: 234 of 500 in this step", "samples: 249 of 500 in this step", True),
        ("may still be worse by 0.0227 (0.01", "may still be worse by 0.02 (0.01", True),
        ("step 1 of 2: version 1 has 75 %", "step 2 of 2: version 1 has 50 %", False),
        ("errors not yet 0.000% of", "errors not yet 0.100% of", False),
    ],
)
def test_what_may_differ(shown: str, said: str, is_same: bool) -> None:
    assert is_as_shown(shown, said, MAY_DIFFER) is is_same
