"""What a plan may not slice by."""

from __future__ import annotations

import pytest

from rollout.comparison_plan import PlannedComparison, comparison_faults


@pytest.mark.parametrize(
    "name", ["header:Authorization", "header:x-headrace-token", "header:x-api-key"]
)
def test_headers_with_secrets_are_no_slices(name: str) -> None:
    [fault] = comparison_faults(PlannedComparison(), (name,))
    assert "secret" in fault


def test_other_headers_are() -> None:
    assert not list(comparison_faults(PlannedComparison(), ("header:x-country",)))
