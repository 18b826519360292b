from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ModelLoadError
from backends.pbtxt import MAX_DEPTH, Outline, read_outline
from protos.inference import ModelConfig

READ = frozenset({"name", "max_batch_size", "input.name", "input.dims", "version_policy.all"})


def outline(text: str, message: ModelConfig | None = None) -> Outline:
    return read_outline(text, message or ModelConfig(), READ, source="m/config.pbtxt")


def refusal(text: str) -> str:
    with pytest.raises(ModelLoadError) as caught:
        outline(text)
    return str(caught.value)


def test_what_stands_there_is_filled_in_and_listed() -> None:
    config = ModelConfig()
    found = outline('name: "m"\ninput [ { name: "x" dims: [ 1, -1 ] }, { name: "y" } ]', config)
    assert config.name == "m"
    assert [(one.name, list(one.dims)) for one in config.input] == [("x", [1, -1]), ("y", [])]
    assert found == Outline(("name", "input", "input.name", "input.dims"), ())


def test_a_zero_is_told_from_nothing() -> None:
    assert outline("max_batch_size: 0").written == ("max_batch_size",)
    assert outline("").written == ()


def test_what_nobody_reads_is_named_once_and_not_looked_into() -> None:
    text = """
    input { name: "x" format: FORMAT_NCHW }
    input < name: "y", format: FORMAT_NHWC; >  # both kinds of brackets
    optimization { cuda { graphs: true } }
    parameters: { key: "a" value: { string_value: "b" 'c' } }
    parameters [ { key: "d" } ]
    metric_tags: [ ]
    numbers: [ 1, -2.5, 0x1F, inf, true ]
    """
    assert outline(text).ignored == (
        "input.format",
        "optimization",
        "parameters",
        "metric_tags",
        "numbers",
    )


def test_a_slip_of_the_pen_is_shown_what_was_meant() -> None:
    assert outline("max_batchsize: 3\ninput { nam: 'x' dims: 1 }").ignored == (
        "max_batchsize (perhaps meant as max_batch_size)",
        "input.nam",
    )


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ('name: "m"\nname: "n"', 2, 7, "multiple"),
        ("max_batch_size: many", 1, 17, "many"),
        ('max_batch_size: "8"', 1, 17, ""),
        ('name "m"', 1, 6, 'expected ":" or "{"'),
        ("input {\n  name: 'x'\n", 3, 1, 'expected "}"'),
        ("name: 'm\n", 1, 7, ""),
        ("unknown: }", 1, 10, "expected a value"),
        ("unknown: [ 1 2 ]", 1, 14, 'Expected ","'),
        ("= 3", 1, 1, "identifier"),
        ("}", 1, 1, "identifier"),
        ("version_policy { all { } latest { } }", 1, 26, "oneof"),
        ("[a.b]: 3", 1, 1, "identifier"),
        ("input { dims: 99999999999999999999 }", 1, 15, "out of range"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, line: int, column: int, said: str) -> None:
    message = refusal(text)
    assert message.startswith(f"m/config.pbtxt: line {line}, column {column}: "), message
    assert said in message


def test_endless_brackets_end() -> None:
    assert f"nested deeper than {MAX_DEPTH} levels" in refusal("a {" * 100_000)
    assert f"nested deeper than {MAX_DEPTH} levels" in refusal("input: " + "{ input: " * 100_000)


def test_a_long_line_does_not_come_back_whole() -> None:
    assert len(refusal("max_batch_size: " + "x" * 100_000)) < 400


PIECES = st.sampled_from(
    [
        *("name", "input", "dims", "max_batch_size", "version_policy", "all", "other", "data_type"),
        *(":", "{", "}", "[", "]", "<", ">", ",", ";", "\n", '"x"', "'", "1", "-1", "0x", "# c\n"),
        *("1.5", "true", "TYPE_FP32", "é", "\\", "\0"),
    ]
)


@given(st.lists(PIECES, max_size=25).map(" ".join))
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    refused = ""
    try:
        found = outline(text)
    except ModelLoadError as error:
        refused = str(error)
    if refused:
        assert re.match(r"m/config\.pbtxt: line \d+, column \d+: .", refused)
    else:
        assert READ.isdisjoint(found.ignored)
