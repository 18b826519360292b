"""What may stand where a plan names a version: a number as folders have it, and nothing that only looks like one."""

from __future__ import annotations

import pytest

from rollout.checking import faults_of
from rollout.plan import Shadow
from tests.unit.rollout.plans import proposal

NO_VERSIONS = ["latest", "0", "03", "-1", "1.0", " 4", "4 ", "٤", "1" * 19]


@pytest.mark.parametrize("version", NO_VERSIONS)
def test_a_plan_that_names_no_version_is_refused(version: str) -> None:
    for plan in (
        proposal(champion=version),
        proposal(candidate=version),
        proposal(shadows=(Shadow(version=version, percent=5, salt="s"),)),
    ):
        assert any(f"{version!r} is no version" in one for one in faults_of(plan)), plan


@pytest.mark.parametrize("version", ["4", "10", "20260101123000"])
def test_numbers_are_versions(version: str) -> None:
    assert not any("no version" in one for one in faults_of(proposal(candidate=version)))
