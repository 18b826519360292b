"""A training set, put together block by block: spine and joined views side by side, in the spine's order.

Decides the size of blocks, what is computed from what, and which rows are refused. It holds one block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurecache.columns import ColumnType, Values
from featurecache.errors import FeatureError, RowError
from featurecache.joining.on_demand import Functions
from featurecache.manifests.manifest import FeatureRef, OnDemandSpec
from featurecache.offline.arrow_columns import Mask, read_column
from featurecache.offline.arrow_values import arrow_type, to_arrow
from featurecache.offline.parquet_files import ParquetFiles
from featurecache.offline.training_columns import JoinedView

MAX_BLOCK_ROWS = 65_536
MIN_BLOCK_ROWS = 2_048
MAX_BLOCK_BYTES = 32 * 1024 * 1024
_STRING_BYTES = 64
"""What a string is taken for when blocks are sized."""

Tell = Callable[[str, int, int], None]


class BlockPlan(msgspec.Struct):
    """What one block is made of."""

    spine: ParquetFiles
    event_time: str
    keep: list[str]
    keys: dict[str, ColumnType]
    """Join keys that are features or inputs of on-demand features."""
    inputs: dict[str, ColumnType]
    views: list[JoinedView]
    joined: list[Path]
    """Of the views: a file with one row per row of the spine."""
    computed: list[OnDemandSpec]
    functions: Functions
    features: dict[str, tuple[FeatureRef, ColumnType]]
    """Column → what stands in it."""
    status_columns: dict[str, JoinedView]
    stops_when_refused: bool
    """Nothing is written any more once a row was refused; the rest is counted only."""
    metadata: bytes


def block_rows(types: Sequence[ColumnType]) -> int:
    """Rows of a block with columns of these types."""
    width = sum((one.width or _STRING_BYTES) * one.elements for one in types) or 1
    fitting = MAX_BLOCK_BYTES // width // MIN_BLOCK_ROWS * MIN_BLOCK_ROWS
    return max(MIN_BLOCK_ROWS, min(MAX_BLOCK_ROWS, fitting))


def write_blocks(plan: BlockPlan, out: Path, tell: Tell) -> tuple[int, dict[str, int]]:
    """Writes ``out``. Returns its rows, and why a request would fail for how many rows of the spine."""
    types = [type_ for _, type_ in plan.features.values()]
    types += [view.spec.column(name).parsed for view in plan.views for name in view.columns]
    rows = block_rows(types)
    # The time as well: a block without columns would have no rows.
    columns = list(dict.fromkeys([*plan.keep, *plan.keys, *plan.inputs, plan.event_time]))
    spine = _blocks(plan.spine.paths, columns, rows)
    views = [_blocks([path], None, rows) for path in plan.joined]
    refused: dict[str, int] = {}
    total, done, written = plan.spine.total_rows, 0, 0
    with _Writer(plan, out) as writer:
        for block, *joined in zip(spine, *views, strict=True):
            tell("write", done, total)
            done += block.num_rows
            table = _assembled(plan, block, joined, refused)
            if table is not None:
                writer.write(table)
                written += table.num_rows
        if not done:
            writer.write_schema(plan.spine.paths[0])
    tell("write", done, total)
    return written, refused


def _blocks(paths: Sequence[Path], columns: list[str] | None, rows: int) -> Iterator[Any]:
    """Tables of ``rows`` rows, whatever the files' own blocks are; the last may be shorter."""
    waiting: list[Any] = []
    held = 0
    for path in paths:
        # Without pre-buffering a whole row group, which may be the whole file.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                waiting.append(pa.table(batch))
                held += batch.num_rows
                while held >= rows:
                    whole = pa.concat_tables(waiting)
                    yield whole.slice(0, rows)
                    waiting, held = [whole.slice(rows)], held - rows
    if held:
        yield pa.concat_tables(waiting)


class _Writer:
    """The output, opened when the first block shows its columns' types."""

    def __init__(self, plan: BlockPlan, path: Path) -> None:
        self._plan, self._path = plan, path
        self._writer: Any = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, table: Any) -> None:
        if self._writer is None:
            self._open(table.schema)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def write_schema(self, spine: Path) -> None:
        """Of a training set without rows."""
        plan = self._plan
        kept = pq.read_schema(spine)
        fields = [kept.field(name) for name in plan.keep]
        fields += [pa.field(name, arrow_type(type_)) for name, (_, type_) in plan.features.items()]
        fields += [pa.field(name, pa.uint8()) for name in plan.status_columns]
        self._open(pa.schema(fields))

    def _open(self, schema: Any) -> None:
        schema = schema.with_metadata({b"headrace": self._plan.metadata})
        self._writer = pq.ParquetWriter(self._path, schema)


def _assembled(
    plan: BlockPlan, block: Any, joined: Sequence[Any], refused: dict[str, int]
) -> Any | None:
    """The block of the training set; None when nothing of it is to be written."""
    bad = np.zeros(block.num_rows, np.bool_)
    values: dict[tuple[object, ...], Values] = {}
    for kind, types in (("key", plan.keys), ("input", plan.inputs)):
        for name, type_ in types.items():
            values[kind, name] = _given(plan, block, kind, name, type_, bad, refused)
    statuses = {}
    for view, table in zip(plan.views, joined, strict=True):
        listed = [table.column(f"c{i}") for i in range(len(view.columns))]
        judged = view.judge(table.column("age"), listed)
        for why, mask in judged.refused.items():
            _count(why, mask, bad, refused)
        statuses[view.status_column] = judged.statuses
        for name, column in judged.values.items():
            values["view", view.use, name] = column
    if plan.stops_when_refused and refused:
        return None
    if bad.any():
        good = ~bad
        block = block.filter(pa.array(good))
        values = {key: column[good] for key, column in values.items()}
        statuses = {name: column[good] for name, column in statuses.items()}
    for spec in plan.computed:
        columns = [values[_identity(ref)] for ref in spec.inputs]
        values["on_demand", spec.name] = plan.functions.compute(spec.name, columns)
    return _table(plan, block, values, statuses)


def _table(
    plan: BlockPlan,
    block: Any,
    values: Mapping[tuple[object, ...], Values],
    statuses: Mapping[str, Values],
) -> Any:
    arrays = [block.column(name) for name in plan.keep]
    for column, (ref, type_) in plan.features.items():
        try:
            arrays.append(to_arrow(type_, values[_identity(ref)]))
        except RowError as error:
            raise FeatureError(f"column '{column}': {error}") from None
    arrays += [pa.array(statuses[name]) for name in plan.status_columns]
    return pa.table(arrays, names=[*plan.keep, *plan.features, *plan.status_columns])


def _given(
    plan: BlockPlan,
    block: Any,
    kind: str,
    name: str,
    type_: ColumnType,
    bad: Mask,
    refused: dict[str, int],
) -> Values:
    """A column of the spine as a feature: what a request would carry."""
    try:
        values, nulls = read_column(type_, block.column(name))
    except RowError as error:
        raise RowError(f"{plan.spine.label}: column '{name}': {error}") from None
    needs_value = not type_.is_float and not (kind == "key" and type_.is_string)
    if needs_value and nulls.any():
        _count(f"{kind} '{name}' of the spine is null", nulls, bad, refused)
    return values


def _count(why: str, mask: Mask, bad: Mask, refused: dict[str, int]) -> None:
    bad |= mask
    refused[why] = refused.get(why, 0) + int(mask.sum())


def _identity(ref: FeatureRef) -> tuple[object, ...]:
    return ("view", ref.use, ref.column) if ref.kind == "view" else (ref.kind, ref.name)
