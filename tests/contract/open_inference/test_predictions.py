"""The fields of a prediction: outputs and their order, ids, versions, parameters, shapes and odd numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.protocol_callers import Answer, Array, Ask, Caller, CallError, Given, Wanted

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)
SIXTEEN = np.arange(16, dtype=np.int32).reshape(1, 16)
ONES = np.ones((1, 16), np.int32)
SIMPLE = [Given("INPUT0", "INT32", SIXTEEN), Given("INPUT1", "INT32", ONES)]


def _x(array: Array, *, binary: bool = True) -> list[Given]:
    return [Given("x", "FP32", array, binary)]


# ---- inputs and outputs ----------------------------------------------------------------------------


def test_several_inputs_and_outputs(caller: Caller) -> None:
    answer = caller.ask(Ask("simple", SIMPLE))
    assert (answer.model, answer.version) == ("simple", "1")
    assert list(answer.outputs) == ["OUTPUT0", "OUTPUT1"]
    assert np.array_equal(answer.outputs["OUTPUT0"], SIXTEEN + ONES)
    assert np.array_equal(answer.outputs["OUTPUT1"], SIXTEEN - ONES)


def test_inputs_in_any_order(caller: Caller) -> None:
    answer = caller.ask(Ask("simple", SIMPLE[::-1]))
    assert np.array_equal(answer.outputs["OUTPUT1"], SIXTEEN - ONES)


def test_one_input_as_json_and_one_as_bytes(http_caller: Caller) -> None:
    for first, second in ((True, False), (False, True)):
        inputs = [SIMPLE[0]._replace(binary=first), SIMPLE[1]._replace(binary=second)]
        outputs = [Wanted("OUTPUT0", second), Wanted("OUTPUT1", first)]
        answer = http_caller.ask(Ask("simple", inputs, outputs))
        assert np.array_equal(answer.outputs["OUTPUT0"], SIXTEEN + ONES)
        assert np.array_equal(answer.outputs["OUTPUT1"], SIXTEEN - ONES)


def test_inputs_of_several_datatypes(caller: Caller) -> None:
    given = [
        Given("name", "BYTES", np.array([[b"zero"], [b""]], np.object_)),
        Given("amount", "FP64", np.array([[0.1], [1e300]])),
        Given("flag", "BOOL", np.array([[True], [False]])),
    ]
    answer = caller.ask(Ask("mixed", given))
    assert list(answer.outputs) == ["name_out", "amount_out", "flag_out"]
    for one in given:
        assert answer.outputs[f"{one.name}_out"].tolist() == one.array.tolist()


@pytest.mark.parametrize(
    "wanted", [["OUTPUT1"], ["OUTPUT0"], ["OUTPUT1", "OUTPUT0"], ["OUTPUT0", "OUTPUT1"]], ids=str
)
def test_only_what_is_asked_for_in_the_order_of_asking(caller: Caller, wanted: list[str]) -> None:
    answer = caller.ask(Ask("simple", SIMPLE, [Wanted(name) for name in wanted]))
    assert list(answer.outputs) == wanted
    expected = {"OUTPUT0": SIXTEEN + ONES, "OUTPUT1": SIXTEEN - ONES}
    for name in wanted:
        assert np.array_equal(answer.outputs[name], expected[name])


def test_outputs_of_several_datatypes(caller: Caller) -> None:
    rows = np.array([[1, 2, 3, -10], [0, 5, 1, 1]], np.float32)
    answer = caller.ask(Ask("three_outputs", _x(rows)))
    assert answer.outputs["total"].tolist() == [[-4.0], [7.0]]
    assert answer.outputs["label"].tolist() == [2, 1]
    assert answer.outputs["positive"].tolist() == [[False], [True]]


# ---- who asks, and for what ------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", ["", "42", 'a b/c?d=é"\\', "x" * 5000])
def test_request_ids_come_back(caller: Caller, request_id: str) -> None:
    assert caller.ask(Ask("identity_fp32", _x(ROW), request_id=request_id)).request_id == request_id


@pytest.mark.parametrize(
    ("version", "served", "added"), [("", "3", 3), ("1", "1", 1), ("3", "3", 3)]
)
def test_the_newest_version_or_the_one_asked_for(
    caller: Caller, version: str, served: str, added: float
) -> None:
    answer = caller.ask(Ask("versioned", _x(ROW), version=version))
    assert answer.version == served
    assert np.array_equal(answer.outputs["y"], ROW + added)


@pytest.mark.parametrize("priority", [0, 1, 2, 4, 9999])
def test_a_priority_is_taken(caller: Caller, priority: int) -> None:
    rows = np.zeros((1, 32), np.float32)
    answer = caller.ask(Ask("linear", _x(rows), priority=priority))
    assert answer.outputs["y"].shape == (1, 1)


def test_a_timeout_that_is_long_enough(caller: Caller) -> None:
    answer = caller.ask(Ask("identity_fp32", _x(ROW), timeout_us=10_000_000))
    assert np.array_equal(answer.outputs["y"], ROW)


def test_a_timeout_that_nobody_could_keep(caller: Caller) -> None:
    with pytest.raises(CallError) as failed:
        caller.ask(Ask("identity_fp32", _x(ROW), timeout_us=1))
    late = ("504", "503") if caller.is_http else ("DEADLINE_EXCEEDED", "UNAVAILABLE")
    assert failed.value.status in late


def test_no_timeout_at_all(caller: Caller) -> None:
    answer = caller.ask(Ask("identity_fp32", _x(ROW), timeout_us=0))
    assert np.array_equal(answer.outputs["y"], ROW)


# ---- rows and shapes -------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 11, 64])
def test_more_rows_than_a_batch_come_back_whole_and_in_order(caller: Caller, rows: int) -> None:
    sent = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    answer = caller.ask(Ask("small_batches", _x(sent)))
    assert np.array_equal(answer.outputs["y"], sent)


def test_a_model_whose_rows_depend_on_each_other(caller: Caller) -> None:
    sent = np.ones((5, 4), np.float32)
    answer = caller.ask(Ask("unbatched", _x(sent)))
    assert np.array_equal(answer.outputs["y"], np.cumsum(sent, axis=0))


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0), (3, 5)], ids=str)
def test_tensors_without_elements(caller: Caller, shape: tuple[int, int]) -> None:
    sent = np.zeros(shape, np.float32)
    assert caller.ask(Ask("any_shape", _x(sent))).outputs["y"].shape == shape


def test_tensors_without_elements_as_json(http_caller: Caller) -> None:
    sent = np.zeros((0, 4), np.float32)
    ask = Ask("any_shape", _x(sent, binary=False), [Wanted("y", binary=False)])
    assert http_caller.ask(ask).outputs["y"].shape == (0, 4)


def test_no_strings_at_all(caller: Caller) -> None:
    given = Given("x", "BYTES", np.zeros((2, 0), np.object_))
    answer = caller.ask(Ask("any_text", [given]))
    assert answer.outputs["y"].shape == (2, 0)


def test_a_variable_dimension(caller: Caller) -> None:
    for length in (1, 2, 7):
        given = Given("ids", "INT64", np.arange(2 * length).reshape(2, length))
        answer = caller.ask(Ask("embedding", [given]))
        assert answer.outputs["vectors"].shape == (2, length, 4)
        assert answer.outputs["vectors"][1, -1, 0] == 4 * (2 * length - 1)


# ---- numbers that JSON has no word for -------------------------------------------------------------

STRANGE = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)


@pytest.mark.parametrize(("binary_in", "binary_out"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_nan_and_infinity_over_http(http_caller: Caller, binary_in: int, binary_out: int) -> None:
    ask = Ask("identity_fp32", _x(STRANGE, binary=bool(binary_in)), [Wanted("y", bool(binary_out))])
    _assert_strange(http_caller.ask(ask))


def test_nan_and_infinity(caller: Caller) -> None:
    _assert_strange(caller.ask(Ask("identity_fp32", _x(STRANGE))))


def _assert_strange(answer: Answer) -> None:
    assert np.array_equal(answer.outputs["y"], STRANGE, equal_nan=True)


def test_a_model_that_makes_nan(caller: Caller) -> None:
    answer = caller.ask(Ask("logarithm", _x(np.array([[-1, 0, 1, np.inf]], np.float32))))
    expected = np.array([[np.nan, -np.inf, 0.0, np.inf]], np.float32)
    assert np.array_equal(answer.outputs["y"], expected, equal_nan=True)


# ---- size ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's advice
def test_twenty_megabytes_both_ways(caller: Caller) -> None:
    sent = np.tile(np.arange(1024, dtype=np.float32), 5 * 1024).reshape(1, -1)
    answer = caller.ask(Ask("wide", _x(sent)))
    assert answer.outputs["y"].tobytes() == sent.tobytes()


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_answers(http_caller: Caller, compression: str) -> None:
    sent = np.zeros((1, 10_000), np.float32)
    ask = Ask("wide", _x(sent), answer_compression=compression)
    assert np.array_equal(http_caller.ask(ask).outputs["y"], sent)
    as_json = ask._replace(outputs=[Wanted("y", binary=False)])
    assert np.array_equal(http_caller.ask(as_json).outputs["y"], sent)
