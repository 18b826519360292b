"""The online side of a comparison, when it is a running gateway: what its own lookup says at the admin port.

Decides how much is asked at once, and how JSON becomes values again. What a row gives is the gateway's answer alone: it
must never judge one, nor look at the store or the files.
"""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from featurecache.columns import ColumnType
from featurecache.errors import RowError, SourceError
from featurecache.manifests.manifest import Manifest, ViewSpec
from featurecache.offline.verify import OnlineRow
from featurecache.offline.verify_offline import Entity
from featurecache.status import Status

ASKED_ROWS = 200
"""Entities of one question; gateways answer at most 1,000, and 200,000 values."""
ASKED_VALUES = 100_000
TIMEOUT_S = 10.0
"""For one answer."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_TRIES = 5
"""While the gateway shows others their rows; ``PAUSE_S`` between them."""
PAUSE_S = 0.5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BUSY = (429, 503)


class _Feature(msgspec.Struct):
    name: str
    values: list[Any]


class _View(msgspec.Struct):
    statuses: list[str]
    event_times: list[str | None]
    refused: list[dict[str, Any]]


class _Answer(msgspec.Struct):
    """The part of a lookup's answer that is compared."""

    digest: str
    revision: int
    features: list[_Feature]
    views: list[_View]


class GatewayAsk:
    """Answers ``verify`` from a gateway."""

    def __init__(
        self,
        manifest: Manifest,
        url: str,
        told: Callable[[int], None] = lambda rows: None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """``url``: of the admin port, such as http://127.0.0.1:8002. ``told``: how many entities were asked so far.

        Raises ``RowError`` for another address.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise RowError(
                f"{url} is no address of a gateway; write its admin port's, such as http://127.0.0.1:8002"
            )
        self._manifest, self._told, self._asked = manifest, told, 0
        self._is_tls, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._path, self._timeout_s = parts.path.rstrip("/"), timeout_s
        self._shown = f"{parts.scheme}://{parts.hostname}{f':{port}' if port else ''}"

    def __call__(self, name: str, entities: Sequence[Entity]) -> list[OnlineRow]:
        """One row for each entity, in order. Raises ``SourceError`` when the gateway does not answer."""
        view = self._manifest.view(name)
        width = sum(one.parsed.elements for one in view.columns)
        step = max(1, min(ASKED_ROWS, ASKED_VALUES // width))
        rows: list[OnlineRow] = []
        for start in range(0, len(entities), step):
            rows += self._rows(view, entities[start : start + step])
            self._told(self._asked)
        return rows

    def _rows(self, view: ViewSpec, entities: Sequence[Entity]) -> list[OnlineRow]:
        names = self._manifest.entity(view.entity).keys
        keys = {name: [one[i] for one in entities] for i, name in enumerate(names)}
        status, body = self._post(
            f"{self._path}/v2/features/views/{quote(view.name)}/lookup",
            msgspec.json.encode({"keys": keys}),
        )
        if status in (400, 413) and len(entities) > 1:  # long strings: less at once
            middle = len(entities) // 2
            return self._rows(view, entities[:middle]) + self._rows(view, entities[middle:])
        if status != 200:
            raise SourceError(
                f"{self._shown} answers {status} to a lookup of view '{view.name}': "
                f"{body[:300].decode(errors='replace')}"
            )
        try:
            answer = msgspec.json.decode(body, type=_Answer)
            rows = self._read(view, answer, len(entities))
        except (msgspec.DecodeError, LookupError, ValueError, TypeError) as error:
            raise SourceError(
                f"{self._shown} answers with what is no lookup ({error}); is it a gateway's admin port?"
            ) from None
        self._asked += len(rows)
        return rows

    def _read(self, view: ViewSpec, answer: _Answer, count: int) -> list[OnlineRow]:
        if answer.digest != self._manifest.digest:
            raise SourceError(
                f"{self._shown} has other definitions (revision {answer.revision}, here {self._manifest.revision}); "
                "compare with the manifest that it serves"
            )
        (seen,) = answer.views
        refused = {one["row"]: str(one["why"]) for one in seen.refused}
        columns = {one.name.removeprefix(f"{view.name}."): one.values for one in answer.features}
        told = {
            column.name: [_value(column.parsed, one) for one in columns[column.name]]
            for column in view.columns
        }
        lengths = {len(seen.statuses), len(seen.event_times), *map(len, told.values())}
        if lengths != {count}:
            raise ValueError(f"{lengths} rows for {count} entities")
        moment_us = time.time_ns() // 1000
        return [
            OnlineRow(
                Status[seen.statuses[i]],
                {} if i in refused else {name: values[i] for name, values in told.items()},
                None if event is None else _micros(event),
                moment_us=moment_us,
                refused=refused.get(i, ""),
            )
            for i, event in enumerate(seen.event_times)
        ]

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        status, answer = self._post_once(path, body)
        for _ in range(MAX_TRIES - 1):
            if status not in _BUSY:
                break
            time.sleep(PAUSE_S)
            status, answer = self._post_once(path, body)
        return status, answer

    def _post_once(self, path: str, body: bytes) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(
                f"{self._shown}: no gateway answers there ({str(error) or type(error).__name__}); --url names the "
                "admin port of one that runs"
            ) from None
        finally:
            connection.close()
        if len(answer) > MAX_ANSWER_BYTES:
            raise SourceError(f"{self._shown}: an answer of more than {MAX_ANSWER_BYTES} bytes")
        return response.status, answer


def _value(type_: ColumnType, value: Any) -> object:
    """As a model was given it: null stands for NaN, texts for infinities and moments."""
    if type_.length and isinstance(value, list):
        element = ColumnType(type_.kind)
        return [_value(element, one) for one in value]
    if type_.is_float:
        if value is None:
            return [math.nan] * type_.length if type_.length else math.nan
        return float(value)
    if type_.kind == "timestamp" and isinstance(value, str):
        return _micros(value)
    return value


def _micros(text: str) -> int:
    if text.endswith(" µs"):
        return int(text.removesuffix(" µs"))
    since = datetime.fromisoformat(text) - _EPOCH
    return since // timedelta(microseconds=1)
