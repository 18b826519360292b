"""Logs: one line for each event, as JSON for machines or text for people.

Every field that a caller passes as ``extra`` becomes a field of the line, ``request_id`` among them. It must never
log a tensor or a credential.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
    "taskName",
}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(record).items()
        if key not in _STANDARD and value is not None and value != ""
    }


def _one_line(value: Any) -> str:
    """What callers choose may hold line breaks or a terminal's control characters: they are spelt out."""
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:
            # Half a character pair, or a number beyond 64 bits: rather slowly than not at all.
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={_one_line(value)}" for key, value in _extra(record).items())
        line = f"{_time(record)} {record.levelname.lower():7} {record.getMessage()}"
        if fields:
            line += f"  {fields}"
        if record.exc_info:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line


class WorkerName(logging.Filter):
    """Adds the number of the worker to every line."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker = self._worker
        return True


def configure(
    level: str, style: str, stream: TextIO | None = None, *, worker: int | None = None
) -> None:
    """Send every log of the process to ``stream`` (standard error); each line names its worker, if there is one."""
    target = stream or sys.stderr
    as_text = style == "text" or (style == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    if worker is not None:
        handler.addFilter(WorkerName(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn's own start and stop lines repeat ours, and it warns of each bad request: anyone could fill the disk.
    logging.getLogger("uvicorn.error").setLevel("ERROR")
