"""The second opinion: the latest row of an entity, read out of raw Parquet with nothing but Arrow and NumPy.

An implementation of its own. It shares the definitions with everything else and no code that reads, joins or encodes,
so that a mistake there is not made here as well. It must never import ``codec``, ``loader`` or ``training_set``.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from featurecache.columns import ColumnType, parse_type
from featurecache.errors import DefinitionError, RowError
from featurecache.manifests.manifest import Manifest, ViewSpec

Entity: TypeAlias = tuple[str | int, ...]
"""The values of the join keys, in the entity's order."""

_BATCH_ROWS = 1_024
"""Also of long strings this is bounded."""
FUTURE_US = 300_000_000
"""So far in the future a row may be for the store to take it."""
MAX_KEY_BYTES = 256
Skipped: TypeAlias = Mapping[str, npt.NDArray[np.int64]]
"""Path → numbers of rows of that file, growing, that are to be read as if they were not there."""


class OfflineRow(msgspec.Struct):
    """What the files know of one entity at a moment."""

    event_us: int
    values: dict[str, object]
    """As the files have them, turned into the declared type; None for null."""


class RawView:
    """The files of one view."""

    def __init__(
        self, manifest: Manifest, view: ViewSpec, data: Path, skipped: Skipped | None = None
    ) -> None:
        """Raises ``RowError`` naming a file that cannot be read, or has not the columns that the view says."""
        if view.source is None:
            raise DefinitionError(f"view '{view.name}' has no files: its rows come by push alone")
        self._view, self._source = view, view.source
        self._keys = list(manifest.entity(view.entity).keys)
        self._paths = sorted(one for one in data.glob(view.source.path) if one.is_file())
        if not self._paths:
            raise RowError(f"{data / view.source.path}: no such Parquet file")
        self._skipped = skipped or {}
        types = dict(zip(self._keys, key_kinds(manifest, view), strict=True))
        self._types = types | {one.name: one.parsed for one in view.columns}
        for path in self._paths:
            _check_schema(path, self._types, self._source.event_time)

    def sample(self, count: int, seed: int) -> list[Entity]:
        """``count`` entities of all that the files have, the same for the same seed and files.

        Those with the smallest hashes: every entity has the same chance, however many rows it has, in bounded memory.
        """
        kept: dict[Entity, int] = {}
        worst: list[tuple[int, Entity]] = []
        for batch in self._batches(self._keys):
            for entity in set(self._entities(batch)):
                if entity is None or entity in kept:
                    continue
                rank = -_hash(seed, entity)
                if len(kept) >= count:
                    if rank <= worst[0][0]:
                        continue
                    _, gone = heapq.heappop(worst)
                    del kept[gone]
                kept[entity] = rank
                heapq.heappush(worst, (rank, entity))
        return sorted(kept, key=lambda one: -kept[one])

    def latest(
        self, wanted: set[Entity], moment_us: int, ahead_us: int = 0
    ) -> dict[Entity, OfflineRow]:
        """The row of each entity that was the newest at ``moment_us``, or lies at most ``ahead_us`` after it; of
        equals, the last in file order.
        """
        found: dict[Entity, OfflineRow] = {}
        time = self._source.event_time
        names = [one.name for one in self._view.columns]
        for batch in self._batches([*self._keys, time, *names]):
            moments = _micros(batch.column(time))
            for row, entity in enumerate(self._entities(batch)):
                moment = moments[row]
                if entity not in wanted or moment is None or moment > moment_us + ahead_us:
                    continue
                before = found.get(entity)
                if before is not None and before.event_us > moment:
                    continue
                # Turned at once: what Arrow holds of one value keeps its whole batch.
                found[entity] = OfflineRow(
                    moment,
                    {
                        one.name: _typed(one.parsed, batch.column(one.name)[row])
                        for one in self._view.columns
                    },
                )
        return found

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        for path in self._paths:
            skipped, start = self._skipped.get(str(path)), 0
            try:
                with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
                    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                        end = start + batch.num_rows
                        if skipped is not None:
                            first, last = np.searchsorted(skipped, (start, end))
                            kept = np.ones(batch.num_rows, np.bool_)
                            kept[skipped[first:last] - start] = False
                            batch = batch.filter(pa.array(kept))
                        yield batch
                        start = end
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise RowError(f"{path}, after row {start}: cannot be read ({error})") from None

    def _entities(self, batch: Any) -> Iterator[Entity | None]:
        """None where a key is null, an empty string, or longer than any request can carry."""
        try:
            columns = [_plain(batch.column(key)).to_pylist() for key in self._keys]
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise RowError(f"{self._source.path}: a key is not UTF-8 ({error})") from None
        for entity in zip(*columns, strict=True):
            yield entity if all(map(_can_be_asked, entity)) else None


def key_kinds(manifest: Manifest, view: ViewSpec) -> list[ColumnType]:
    """The types of an entity's keys."""
    return [parse_type(text) for text in manifest.entity(view.entity).keys.values()]


def _can_be_asked(part: object) -> bool:
    return part is not None and (
        not isinstance(part, str) or 0 < len(part.encode()) <= MAX_KEY_BYTES
    )


def _check_schema(path: Path, types: Mapping[str, ColumnType], event_time: str) -> None:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise RowError(f"{path}: not a Parquet file that can be read ({error})") from None
    for name in (*types, event_time):
        if schema.names.count(name) != 1:
            raise RowError(f"{path}: column '{name}' is missing, or there twice")
        arrow = schema.field(name).type
        arrow = arrow.value_type if pa.types.is_dictionary(arrow) else arrow
        if name == event_time and not pa.types.is_timestamp(arrow):
            raise RowError(f"{path}: event time '{name}' is {arrow}; it must be a timestamp")
        if name in types and not _fits(types[name], arrow):
            raise RowError(f"{path}: column '{name}' is {arrow}, which is no {types[name]}")


def _fits(type_: ColumnType, arrow: Any) -> bool:
    """Whether values of an Arrow type are of the kind that was declared; their sizes are not looked at."""
    kinds = pa.types
    is_list = kinds.is_list(arrow) or kinds.is_large_list(arrow) or kinds.is_fixed_size_list(arrow)
    if type_.length or is_list:
        return bool(type_.length and is_list and _fits(ColumnType(type_.kind), arrow.value_type))
    if type_.is_string:
        texts = (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_binary)
        return any(one(arrow) for one in (*texts, kinds.is_large_binary))
    if type_.kind == "bool":
        return bool(kinds.is_boolean(arrow))
    if type_.kind == "timestamp":
        return bool(kinds.is_timestamp(arrow) or arrow == pa.int64())
    return bool(kinds.is_integer(arrow) or (type_.is_float and kinds.is_floating(arrow)))


def _plain(column: Any) -> Any:
    """Texts that are written as bytes, as texts."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_bytes = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    return column.cast(pa.string()) if is_bytes else column


def _hash(seed: int, entity: Entity) -> int:
    text = repr((seed, entity)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _micros(column: Any) -> list[int | None]:
    """µs since 1970, rounded down; a time without a zone is in UTC."""
    unit = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}[column.type.unit]
    raw: list[int | None] = column.cast(pa.int64()).to_pylist()
    if unit:
        return [None if one is None else one * unit for one in raw]
    return [None if one is None else one // 1_000 for one in raw]


def _typed(type_: ColumnType, scalar: Any) -> object:
    """One value of a file as the declared type has it: Python's, or a list of them for vectors."""
    if not scalar.is_valid:
        return None
    if type_.kind == "timestamp" and pa.types.is_timestamp(scalar.type):
        return _micros(pa.array([scalar.value], pa.int64()).cast(scalar.type))[0]
    value = scalar.as_py()
    if type_.length:
        listed = [np.nan if one is None else one for one in value]
        return np.asarray(listed, type_.dtype).tolist()
    if type_.is_float:
        return type_.dtype.type(value).item()
    return value
