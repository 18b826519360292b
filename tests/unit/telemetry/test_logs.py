from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.telemetry.logs import JsonFormatter, TextFormatter, configure

CREATED_S = 1_767_323_045.678  # 2026-01-02 03:04:05.678 UTC


def record(message: str = "infer", *args: Any, level: int = logging.INFO, **extra: Any) -> Any:
    made = logging.makeLogRecord({"name": "headrace.access", "levelno": level, "msg": message})
    made.levelname = logging.getLevelName(level)
    made.args = args
    made.created = CREATED_S
    vars(made).update(extra)
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert "\n" not in line
    fields: dict[str, Any] = orjson.loads(line)
    return fields


def failed(error: Exception) -> Any:
    try:
        raise error
    except type(error):
        return record("it broke", level=logging.ERROR, exc_info=sys.exc_info())


# -- JSON, for machines ---------------------------------------------------------------------------


def test_a_line_is_one_json_object() -> None:
    assert as_json(record("model %s is ready", "m")) == {
        "time": "2026-01-02T03:04:05.678Z",
        "level": "info",
        "logger": "headrace.access",
        "event": "model m is ready",
    }


def test_what_the_caller_adds_becomes_a_field() -> None:
    line = as_json(record(request_id="r-1", status=503, duration_us=12))
    assert (line["request_id"], line["status"], line["duration_us"]) == ("r-1", 503, 12)


def test_fields_without_a_value_are_left_out() -> None:
    assert "request_id" not in as_json(record(request_id="", version=None))
    assert as_json(record(count=0))["count"] == 0


def test_an_exception_is_told_whole() -> None:
    line = as_json(failed(ValueError("no such row")))
    assert line["exception"].startswith("Traceback")
    assert "ValueError: no such row" in line["exception"]


def test_what_json_does_not_know_is_told_as_text() -> None:
    assert as_json(record(where=ValueError("x")))["where"] == "x"


@pytest.mark.parametrize(
    ("value", "told"), [("\ud800", "\\ud800"), (2**80, str(2**80)), ({1: "a"}, '{"1": "a"}')]
)
def test_nothing_a_caller_chooses_can_lose_a_line(value: Any, told: str) -> None:
    line = JsonFormatter().format(record(request_id=value))
    assert told in line
    assert '"event": "infer"' in line
    assert "\n" not in line


# -- text, for people -----------------------------------------------------------------------------


def test_a_line_of_text() -> None:
    line = TextFormatter().format(record(request_id="r-1", status=200))
    assert line == "2026-01-02T03:04:05.678Z info    infer  request_id=r-1 status=200"


def test_a_line_without_fields_ends_with_its_message() -> None:
    line = TextFormatter().format(record("started", level=logging.WARNING))
    assert line == "2026-01-02T03:04:05.678Z warning started"


def test_an_exception_follows_the_line() -> None:
    first, *others = TextFormatter().format(failed(ValueError("no such row"))).splitlines()
    assert first.endswith("error   it broke")
    assert others[0].startswith("Traceback")
    assert others[-1] == "ValueError: no such row"


@pytest.mark.parametrize(
    "request_id", ["a\n2026-01-02T03:04:05.678Z error   forged", "\x1b[31mred", "\u2028", "\ud800"]
)
def test_nothing_a_caller_chooses_can_forge_a_line(request_id: str) -> None:
    line = TextFormatter().format(record(request_id=request_id))
    assert len(line.splitlines()) == 1
    assert line.isprintable()


def test_other_languages_stay_readable() -> None:
    assert TextFormatter().format(record(request_id="größe-数")).endswith("request_id=größe-数")


# -- the process's logs ---------------------------------------------------------------------------


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was before, afterwards."""
    logger, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    before = logger.handlers[:], logger.level, uvicorn.level
    yield logger
    logger.handlers[:] = before[0]
    logger.setLevel(before[1])
    uvicorn.setLevel(before[2])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("style", "stream", "is_json"),
    [
        ("json", Terminal(), True),
        ("text", io.StringIO(), False),
        ("auto", Terminal(), False),
        ("auto", io.StringIO(), True),
    ],
)
def test_the_form_of_the_lines(
    root: logging.Logger, style: str, stream: io.StringIO, is_json: bool
) -> None:
    configure("info", style, stream)
    logging.getLogger("headrace.any").info("hello", extra={"port": 8000})
    line = stream.getvalue()
    assert line.startswith("{") is is_json
    assert "hello" in line
    assert "8000" in line


def test_less_urgent_lines_are_left_out(root: logging.Logger) -> None:
    stream = io.StringIO()
    configure("warning", "text", stream)
    logging.getLogger("headrace.any").info("quiet")
    logging.getLogger("headrace.any").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_configuring_twice_does_not_tell_twice(root: logging.Logger) -> None:
    stream = io.StringIO()
    configure("info", "text", io.StringIO())
    configure("info", "text", stream)
    logging.getLogger("headrace.any").info("once")
    assert len(stream.getvalue().splitlines()) == 1


def test_callers_cannot_fill_the_log_by_bad_requests(root: logging.Logger) -> None:
    """uvicorn warns of each request that it cannot parse."""
    stream = io.StringIO()
    configure("debug", "text", stream)
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert stream.getvalue() == ""


def test_standard_error_is_where_logs_go(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("info", "text")
    logging.getLogger("headrace.any").info("here")
    captured = capsys.readouterr()
    assert (captured.out, "here" in captured.err) == ("", True)
