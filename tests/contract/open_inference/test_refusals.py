"""What the server refuses, it refuses with the same reason on both wires, through each client's own exception."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.protocol_callers import Array, Ask, Caller, CallError, Given, Wanted

BAD = ("400", "INVALID_ARGUMENT")
UNKNOWN = ("404", "NOT_FOUND")
NOT_READY = ("503", "UNAVAILABLE")
NOT_OFFERED = ("501", "UNIMPLEMENTED")


def _given(name: str = "x", datatype: str = "FP32", array: Array | None = None) -> Given:
    return Given(name, datatype, np.zeros((1, 4), np.float32) if array is None else array)


REFUSED: dict[str, tuple[Ask, tuple[str, str], str]] = {
    "unknown model": (
        Ask("nobody", [_given()]),
        UNKNOWN,
        "unknown model 'nobody'",
    ),
    "unknown version": (
        Ask("versioned", [_given()], version="2"),
        UNKNOWN,
        "has no version '2'; loaded versions: 1, 3",
    ),
    "a model that did not load": (
        Ask("broken", [_given()]),
        NOT_READY,
        "Protobuf parsing failed",
    ),
    "a version that did not load": (
        Ask("broken", [_given()], version="1"),
        NOT_READY,
        "Protobuf parsing failed",
    ),
    "unknown input": (
        Ask("identity_fp32", [_given("z")]),
        BAD,
        "'z' is not an input of model 'identity_fp32', which takes 'x'",
    ),
    "missing input": (
        Ask("simple", [_given("INPUT0", "INT32", np.zeros((1, 16), np.int32))]),
        BAD,
        "missing: 'INPUT1'",
    ),
    "input given twice": (
        Ask("simple", [_given("INPUT0", "INT32", np.zeros((1, 16), np.int32))] * 2),
        BAD,
        "'INPUT0' is given more than once",
    ),
    "wrong datatype": (
        Ask("identity_fp32", [_given(datatype="INT32", array=np.zeros((1, 4), np.int32))]),
        BAD,
        "expects FP32",
    ),
    "wrong shape": (
        Ask("identity_fp32", [_given(array=np.zeros((1, 5), np.float32))]),
        BAD,
        "has shape [1, 5]; model 'identity_fp32' expects [-1, 4]",
    ),
    "wrong rank": (
        Ask("identity_fp32", [_given(array=np.zeros(4, np.float32))]),
        BAD,
        "has shape [4]",
    ),
    "too few bytes": (
        Ask("identity_fp32", [_given()._replace(torn_bytes=1)]),
        BAD,
        "has 15 bytes of data; FP32 of shape [1, 4] needs 16",
    ),
    "text cut short": (
        Ask(
            "identity_bytes",
            [_given("x", "BYTES", np.full((1, 4), b"text", np.object_))._replace(torn_bytes=1)],
        ),
        BAD,
        "claims 4 of the 3 bytes left",
    ),
    "no rows": (
        Ask("identity_fp32", [_given(array=np.zeros((0, 4), np.float32))]),
        BAD,
        "must be at least 1",
    ),
    "rows that differ": (
        Ask(
            "simple",
            [
                _given("INPUT0", "INT32", np.zeros((1, 16), np.int32)),
                _given("INPUT1", "INT32", np.zeros((2, 16), np.int32)),
            ],
        ),
        BAD,
        "must have the same batch dimension",
    ),
    "unknown output": (
        Ask("identity_fp32", [_given()], [Wanted("z")]),
        BAD,
        "'z' is not an output of model 'identity_fp32', which gives 'y'",
    ),
    "output asked for twice": (
        Ask("identity_fp32", [_given()], [Wanted("y"), Wanted("y")]),
        BAD,
        "more than once",
    ),
    "an index outside of the model's table": (
        Ask("embedding", [_given("ids", "INT64", np.array([[1, 100]]))]),
        BAD,
        "idx=100 must be within",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(caller: Caller, case: str) -> None:
    ask, (http, grpc), words = REFUSED[case]
    with pytest.raises(CallError) as failed:
        caller.ask(ask)
    assert failed.value.status == (http if caller.is_http else grpc)
    assert words in failed.value.message
    # The connection, and the server, are as good as before.
    good = np.ones((1, 4), np.float32)
    assert np.array_equal(caller.ask(Ask("identity_fp32", [_given(array=good)])).outputs["y"], good)


def test_both_wires_use_the_same_words(caller: Caller, sentences: dict[str, str]) -> None:
    for case, (ask, _, _) in REFUSED.items():
        with pytest.raises(CallError) as failed:
            caller.ask(ask)
        assert sentences.setdefault(case, failed.value.message) == failed.value.message


@pytest.fixture(scope="session")
def sentences() -> dict[str, str]:
    """The words of each refusal, as the first client heard them."""
    return {}
