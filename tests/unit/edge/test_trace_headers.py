"""What the head of a request says about its trace."""

from __future__ import annotations

import pytest

from gateway.edge.infer_head import HeadMemory, InferPlan, plan_of_head

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def plan(*headers: tuple[bytes, bytes]) -> InferPlan:
    found = plan_of_head(
        b"/v2/models/m/infer", [(b"content-length", b"2"), *headers], keep_alive=True
    )
    assert found is not None
    return found


def test_both_headers_are_in_the_plan() -> None:
    found = plan((b"traceparent", PARENT), (b"tracestate", b"a=1"), (b"tracestate", b"b=2"))
    assert (found.traceparent, found.tracestate) == (PARENT, b"a=1,b=2")


def test_two_parents_are_kept_together_so_that_they_are_no_valid_one() -> None:
    found = plan((b"traceparent", PARENT), (b"traceparent", PARENT))
    assert found.traceparent == PARENT + b"," + PARENT


def test_most_heads_say_nothing() -> None:
    assert (plan().traceparent, plan().tracestate) == (b"", b"")


@pytest.mark.parametrize(
    ("headers", "remembered"), [((), True), (((b"traceparent", PARENT),), False)]
)
def test_a_head_that_never_comes_again_is_not_remembered(
    headers: tuple[tuple[bytes, bytes], ...], remembered: bool
) -> None:
    memory = HeadMemory()
    for _ in range(3):
        memory.remember(b"the head", plan(*headers))
    assert (memory.plan_of(b"the head") is not None) == remembered
