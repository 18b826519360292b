"""Training sets: for each row of a spine, the features that a model would have been given at that moment.

Decides what goes into the file and in which order; ``point_in_time.py`` decides which row was known,
``training_columns.py`` what becomes of it. The same definitions and files give the same bytes. Memory is bounded,
whatever the files' sizes: joins spill to files beside the output, and everything else is a few blocks of rows. It must
never ask a store.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from featurecache.columns import ColumnType, parse_type
from featurecache.errors import DefinitionError, FeatureError, RowError
from featurecache.joining.on_demand import NO_FUNCTIONS, Functions
from featurecache.manifests.manifest import FeatureRef, Manifest, ServiceSpec, ViewSpec
from featurecache.manifests.needs import key_types, needed_refs
from featurecache.offline.data_card import (
    DataCard,
    FeatureCard,
    SourceCard,
    file_card,
    source_card,
    write_card,
)
from featurecache.offline.parquet_files import (
    ParquetFiles,
    Wanted,
    checked_files,
    column_names_of,
    pattern_files,
)
from featurecache.offline.point_in_time import JoinLimits, PointInTime, TimeRange
from featurecache.offline.training_blocks import BlockPlan, block_rows, write_blocks
from featurecache.offline.training_columns import JoinedView, column_names, joined_views
from featurecache.offline.training_output import check_output, told_as_sentence
from featurecache.writing.bad_places import ANY_TIME_US, OnBadRow, sound_places
from featurecache.writing.parquet_source import ParquetView

Progress: TypeAlias = Callable[[str, int, int], None]
"""What is being done, how far, of how much."""


class Spine(msgspec.Struct, frozen=True):
    """Whose features are wanted, and when: Parquet with the service's join keys, its request-time inputs and a time."""

    path: Path | str
    """A file or a pattern."""
    event_time: str
    """The column with the moment of the prediction."""
    keep: list[str] | None = None
    """Columns to carry over (label, ids); None: all that are no features themselves."""


class Options(msgspec.Struct, frozen=True):
    """How a training set is made; none of it changes the values of a row."""

    statuses: bool = False
    """One ``<view>__status`` column per view (see ``Status``)."""
    when_refused: Literal["refuse", "leave_out"] = "refuse"
    """What to do with rows for which a request would fail: make no training set, or one without them."""
    on_bad_row: OnBadRow = "refuse"
    """What to do with rows of sources that the loader would not load: make no training set, or one as if they were
    not there. Event times in the future are not bad here: the past of the spine does not see them."""
    limits: JoinLimits = JoinLimits()


class _Plan(msgspec.Struct):
    """What is read and written, once everything was checked."""

    manifest: Manifest
    service: ServiceSpec
    refs: list[FeatureRef]
    """All that are needed, also by on-demand features."""
    keys: dict[str, ColumnType]
    views: list[JoinedView]
    readers: dict[str, ParquetView]
    """By name of the view, which may be asked in several ways."""
    sources: list[ParquetFiles]
    """Of ``views``, once their rows were judged."""
    spine: ParquetFiles
    names: dict[str, str]
    keep: list[str]


def build(
    manifest: Manifest,
    service: str,
    spine: Spine,
    data: Path,
    out: Path,
    *,
    functions: Functions = NO_FUNCTIONS,
    options: Options = Options(),  # noqa: B008  # frozen
    progress: Progress | None = None,
) -> DataCard:
    """Writes ``out`` and its card beside it (``<out>.card.json``, ``<out>.card.md``).

    ``data``: the folder below which the views' sources lie. One row per row of the spine, in its order: the kept
    columns, every feature of the service in its order, then statuses. Raises ``FeatureError`` (``RowError`` where a
    file is at fault) and leaves ``out`` as it was.
    """
    tell = progress or (lambda *_: None)
    plan = _planned(manifest, service, spine, data, out, functions)
    plan.sources = _sound_sources(plan, options.on_bad_row, tell)
    with _work_folder(out) as folder:
        with PointInTime(plan.spine, spine.event_time, folder, options.limits) as join:
            joined, spine_times, times = _joined(plan, spine, join, tell)
        blocks = _block_plan(plan, spine.event_time, functions, options, joined)
        made = folder / "made.parquet"
        rows, refused = write_blocks(blocks, made, tell)
        if refused and options.when_refused == "refuse":
            listed = "".join(f"\n  - {why}: {count} rows" for why, count in refused.items())
            raise FeatureError(
                f"requests for some of the {plan.spine.total_rows} rows of the spine would fail:{listed}\n"
                "Leave them out with --leave-out, or give the views defaults"
            )
        tell("digests", 0, len(plan.sources) + 2)
        cards = [
            source_card(view.spec.name, files, files_event_time(view), range_)
            for view, files, range_ in zip(plan.views, plan.sources, times, strict=True)
        ]
        spine_card = source_card("spine", plan.spine, spine.event_time, spine_times)
        card = _card(plan, made, out, rows, refused, spine_card, cards)
        with told_as_sentence(out):
            shutil.move(made, out)
            write_card(card, out)
    tell("digests", len(plan.sources) + 2, len(plan.sources) + 2)
    return card


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Beside ``out``, so that what is made there can be moved; gone afterwards."""
    with told_as_sentence(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    with work as folder:
        yield Path(folder)


def _planned(
    manifest: Manifest, name: str, spine: Spine, data: Path, out: Path, functions: Functions
) -> _Plan:
    service = manifest.service(name)
    refs = needed_refs(manifest, service)
    keys = {key: parse_type(text) for key, text in key_types(manifest, service).items()}
    for ref in refs:
        if ref.kind == "on_demand" and ref.name not in functions:
            raise DefinitionError(f"on-demand feature '{ref.name}' needs its code")
    names = column_names(service.refs)
    paths = pattern_files(spine.path)
    views = joined_views(manifest, refs)
    patterns = [one.spec.source.path for one in views if one.spec.source is not None]
    check_output(out, spine.path, paths, data, patterns)
    keep = _kept(spine, column_names_of(paths[0]), service, names)
    inputs = [ref.name for ref in refs if ref.kind == "input"]
    types = keys | {one: manifest.input(one).parsed for one in inputs}
    wanted = Wanted(types, spine.event_time, keep)
    files = checked_files(str(Path(spine.path).name), paths, _base(paths), wanted, is_strict=True)
    readers = {one.spec.name: _reader(manifest, one.spec, data) for one in views}
    return _Plan(manifest, service, refs, keys, views, readers, [], files, names, keep)


def _kept(
    spine: Spine, columns: Sequence[str], service: ServiceSpec, names: Mapping[str, str]
) -> list[str]:
    """Columns to carry over; inputs and keys that are features stand among the features."""
    shared = {ref.name for ref in service.refs if ref.kind in ("input", "key")}
    asked = columns if spine.keep is None else dict.fromkeys(spine.keep)
    keep = [one for one in asked if one not in shared]
    clash = sorted(set(keep) & set(names.values()))
    if clash:
        raise RowError(
            f"{spine.path}: column '{clash[0]}' is called like a feature's column; rename it, or do not keep it"
        )
    return keep


def _base(paths: Sequence[Path]) -> Path:
    """The deepest folder that all files lie in."""
    base = paths[0].parent
    while any(not path.is_relative_to(base) for path in paths):
        base = base.parent
    return base


def _reader(manifest: Manifest, spec: ViewSpec, data: Path) -> ParquetView:
    if spec.source is None:
        raise DefinitionError(
            f"view '{spec.name}' has no source: its rows come by push alone, and nothing of it is known of the past"
        )
    return ParquetView(manifest, spec, data)


def _sound_sources(plan: _Plan, on_bad_row: OnBadRow, tell: Progress) -> list[ParquetFiles]:
    """The views' files without the rows that the loader would not load."""
    sound: dict[str, ParquetFiles] = {}
    for number, (name, reader) in enumerate(plan.readers.items()):
        tell(f"check {name}", number, len(plan.readers))
        assert reader.view.source is not None  # _reader has refused it
        places = sound_places(reader, ANY_TIME_US, on_bad_row)
        sound[name] = msgspec.structs.replace(
            reader.checked,
            label=reader.view.source.path,
            skipped=places if len(places) else None,
        )
    return [sound[view.spec.name] for view in plan.views]


def files_event_time(view: JoinedView) -> str:
    """The column of a view's files with their moment."""
    assert view.spec.source is not None  # _source has refused it
    return view.spec.source.event_time


def _joined(
    plan: _Plan, spine: Spine, join: PointInTime, tell: Progress
) -> tuple[list[Path], TimeRange, list[TimeRange]]:
    """One file per view, row by row beside the spine."""
    spine_times = join.times(plan.spine, spine.event_time, plan.keys)
    joined, times = [], []
    for number, (view, files) in enumerate(zip(plan.views, plan.sources, strict=True)):
        tell(f"join {view.spec.name}", number, len(plan.views))
        event_time = files_event_time(view)
        times.append(join.times(files, event_time, {key.view: key.type for key in view.keys}))
        types = [view.spec.column(name).parsed for name in view.columns]
        joined.append(
            join.join(
                files, event_time, view.keys, view.columns, spine_times.last_us, block_rows(types)
            )
        )
    return joined, spine_times, times


def _block_plan(
    plan: _Plan, event_time: str, functions: Functions, options: Options, joined: list[Path]
) -> BlockPlan:
    status_columns = {}
    if options.statuses:
        taken = {*plan.keep, *plan.names.values()}
        for view in plan.views:
            if view.status_column in taken:
                raise RowError(
                    f"column '{view.status_column}' of the statuses is called like another column"
                )
            status_columns[view.status_column] = view
    used = {ref.name for ref in plan.refs if ref.kind == "on_demand"}
    return BlockPlan(
        spine=plan.spine,
        event_time=event_time,
        keep=plan.keep,
        keys={ref.name: plan.keys[ref.name] for ref in plan.refs if ref.kind == "key"},
        inputs={
            ref.name: plan.manifest.input(ref.name).parsed
            for ref in plan.refs
            if ref.kind == "input"
        },
        views=plan.views,
        joined=joined,
        computed=[one for one in plan.manifest.on_demand if one.name in used],
        functions=functions,
        features={plan.names[str(ref)]: (ref, _type(plan, ref)) for ref in plan.service.refs},
        status_columns=status_columns,
        stops_when_refused=options.when_refused == "refuse",
        metadata=_metadata(plan),
    )


def _type(plan: _Plan, ref: FeatureRef) -> ColumnType:
    manifest = plan.manifest
    if ref.kind == "view":
        return manifest.view(ref.name).column(ref.column).parsed
    if ref.kind == "input":
        return manifest.input(ref.name).parsed
    if ref.kind == "key":
        return plan.keys[ref.name]
    return manifest.on_demand_feature(ref.name).parsed


def _tensors(plan: _Plan) -> dict[str, list[str]]:
    return {
        tensor.name: [plan.names[str(ref)] for ref in tensor.features]
        for tensor in plan.service.tensors
    }


def _metadata(plan: _Plan) -> bytes:
    """Stands in the file itself, so that whoever trains knows what the columns are."""
    return msgspec.json.encode(
        {
            "project": plan.manifest.project,
            "service": plan.service.name,
            "manifest_digest": plan.manifest.digest,
            "tensors": _tensors(plan),
            "features": {column: feature for feature, column in plan.names.items()},
        }
    )


def _card(
    plan: _Plan,
    made: Path,
    out: Path,
    rows: int,
    refused: dict[str, int],
    spine: SourceCard,
    sources: list[SourceCard],
) -> DataCard:
    counts = {
        (*view.use, name): counts for view in plan.views for name, counts in view.counts.items()
    }
    features = []
    for text, column in plan.names.items():
        ref = next(one for one in plan.service.refs if str(one) == text)
        card = FeatureCard(text, column, str(_type(plan, ref)))
        if ref.kind == "view":
            found = counts[(*ref.use, ref.column)]
            share = found.defaulted / max(1, plan.spine.total_rows)
            card = msgspec.structs.replace(
                card,
                null=found.null,
                missing=found.missing,
                stale=found.stale,
                defaulted=found.defaulted,
                defaulted_share=round(share, 6),
            )
        features.append(card)
    return DataCard(
        project=plan.manifest.project,
        service=plan.service.name,
        manifest_revision=plan.manifest.revision,
        manifest_digest=plan.manifest.digest,
        code_digest=plan.manifest.code_digest,
        rows=rows,
        left_out=refused,
        tensors=_tensors(plan),
        features=features,
        kept=plan.keep,
        spine=spine,
        sources=sources,
        output=file_card(made, out.name, rows),
        versions={one: version(one) for one in ("duckdb", "numpy", "pyarrow")},
    )
