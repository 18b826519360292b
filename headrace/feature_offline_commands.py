"""``headrace features training-set | verify``: the files' side of features. Thin.

Decides what is printed and what counts as agreement. It must never decide what was known when: ``featurecache`` does.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from headrace.command_line import refuse, settings_here
from headrace.feature_options import (
    AsJson,
    ManifestOption,
    StoreOption,
    manifest_of,
    one_sentence,
    packed_only,
    print_table,
    settings_and_manifest,
    store_clients,
    store_settings_of,
)
from headrace.progress_display import ProgressDisplay

if TYPE_CHECKING:
    from featurecache.manifests.manifest import Manifest
    from featurecache.offline.verify import Ask, VerifyReport
    from featurecache.offline.verify_offline import Skipped

SHOWN_DIFFERENCES = 20

Data = Annotated[Path, typer.Option(help="Folder below which the views' Parquet files lie.")]
OnBadRow = Annotated[
    Literal["refuse", "skip"],
    typer.Option(
        help="A row of a source that `load` would not load stops all, or is as if it were not there."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``headrace features``."""
    app.command("training-set")(training_set)
    app.command()(verify)


def training_set(
    service: Annotated[str, typer.Argument(help="Name of a feature service.")],
    spine: Annotated[
        str, typer.Option(help="Parquet file or pattern: join keys, inputs, label, and a time.")
    ],
    time_column: Annotated[
        str, typer.Option(help="The spine's column with the moment of each prediction.")
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write, with a data card beside it.")],
    data: Data = Path(),
    keep: Annotated[
        list[str] | None,
        typer.Option(help="A column to carry over, such as the label. \\[default: all others]"),
    ] = None,
    statuses: Annotated[
        bool, typer.Option("--statuses", help="Add a status column for each view.")
    ] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave out rows for which a request would fail.")
    ] = False,
    on_bad_row: OnBadRow = "refuse",
    manifest: ManifestOption = None,
    as_json: AsJson = False,
) -> None:
    """Build a training set: for each row of the spine what a model would have been given at that moment.

    Try it:  headrace features training-set flights --spine spine.parquet --time-column at --out train.parquet
    """
    found, folder = manifest_of(manifest, settings_here())
    with one_sentence():
        from featurecache.joining.on_demand import load_functions
        from featurecache.offline.training_set import Options, Spine, build

        with ProgressDisplay("training set") as display:
            card = build(
                found,
                service,
                Spine(spine, time_column, keep or None),
                data,
                out,
                functions=load_functions(found, folder),
                options=Options(
                    statuses=statuses,
                    when_refused="leave_out" if leave_out else "refuse",
                    on_bad_row=on_bad_row,
                ),
                progress=lambda _what, done, total: display(done, total),
            )
    if as_json:
        typer.echo(msgspec.json.encode(card).decode())
        return
    typer.echo(f"{out}: {card.rows:,} rows; how it was made: {out}.card.md")


def verify(
    views: Annotated[
        list[str] | None, typer.Argument(help="Feature views. \\[default: all that have a source]")
    ] = None,
    data: Data = Path(),
    entities: Annotated[int, typer.Option(min=1, max=100_000, help="Asked per view.")] = 1000,
    seed: Annotated[int, typer.Option(help="Chooses them.")] = 0,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of values; below it the exit code is 1.")
    ] = 1.0,
    on_bad_row: OnBadRow = "refuse",
    url: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="Ask a running gateway at its admin port, such as http://127.0.0.1:8002."
            " \\[default: the store itself]",
        ),
    ] = None,
    manifest: ManifestOption = None,
    store: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Compare what the store says with what the files say, for a sample of entities.

    Try it:  headrace features verify airport_weather --data data
    """
    settings, found = settings_and_manifest(manifest)
    if url is None:
        packed_only(settings)
    elif store is not None:
        refuse("--url asks a gateway and --store a store; give one of them")
    with one_sentence():
        from featurecache.offline.gateway_asking import GatewayAsk
        from featurecache.offline.verify import Sampling
        from featurecache.offline.verify import verify as compared
        from featurecache.writing.store_asking import StoreAsk
        from featurecache.writing.store_keys import StoreKeys

        for name in views or []:
            if found.view(name).source is None:
                refuse(f"view '{name}' has no files to compare with")
        skipped = _skipped(found, data, views or [], on_bad_row)
        moment_us = time.time_ns() // 1000
        with ExitStack() as stack:
            ask: Ask
            if url is not None:
                ask = GatewayAsk(found, url)
            else:
                clients = stack.enter_context(store_clients(store_settings_of(store, settings)))
                ask = StoreAsk(found, StoreKeys(clients), moment_us)
            report = compared(
                found,
                data,
                ask,
                moment_us=moment_us,
                views=views or None,
                sampling=Sampling(entities=entities, seed=seed),
                skipped=skipped,
            )
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _print_report(report)
    _warn_of_nothing(report)
    if (report.agreement or 0.0) < min_agreement:
        raise typer.Exit(1)


def _warn_of_nothing(report: VerifyReport) -> None:
    for one in report.views:
        if one.agreement is None:
            typer.echo(
                f"headrace: warning: nothing of view '{one.view}' was compared: its files have no entity whose row "
                f"is decided ({one.undecided} are about to grow too old, or not yet known)",
                err=True,
            )


def _skipped(
    manifest: Manifest, data: Path, views: list[str], on_bad_row: Literal["refuse", "skip"]
) -> dict[str, Skipped]:
    """By view: the rows that `load` would not load."""
    from featurecache.writing.bad_places import by_file, sound_places
    from featurecache.writing.parquet_source import ParquetView

    skipped: dict[str, Skipped] = {}
    for name in views or [one.name for one in manifest.views if one.source is not None]:
        source = ParquetView(manifest, manifest.view(name), data)
        places = sound_places(source, time.time_ns() // 1000, on_bad_row)
        skipped[name] = by_file(source, places)
    return skipped


def _print_report(report: VerifyReport) -> None:
    print_table(
        ["VIEW", "ENTITIES", "VALUES", "DIFFERING", "UNDECIDED", "AGREEMENT"],
        [
            [
                one.view,
                f"{one.entities:,}",
                f"{one.values:,}",
                f"{one.differing:,}",
                f"{one.undecided:,}",
                "-" if one.agreement is None else f"{one.agreement:.4%}",
            ]
            for one in report.views
        ],
    )
    for one in report.differences[:SHOWN_DIFFERENCES]:
        entity = "|".join(map(str, one.entity))
        column = one.column or "row"
        typer.echo(f"{one.view} {entity} {column}: store {one.online}, files {one.offline}")
    if len(report.differences) > SHOWN_DIFFERENCES:
        typer.echo("… more with --json", err=True)
