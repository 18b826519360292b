"""``headrace features training-set | verify``: the files' side of features. Thin.

Decides what is printed and what counts as agreement. It must never decide what was known when: ``featurecache`` does.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from headrace.command_line import refuse, settings_here
from headrace.feature_options import (
    AsJson,
    ManifestOption,
    StoreOption,
    manifest_of,
    one_sentence,
    print_table,
    settings_and_manifest,
    store_clients,
    store_settings_of,
)
from headrace.progress_display import ProgressDisplay

if TYPE_CHECKING:
    from featurecache.verify import VerifyReport

SHOWN_DIFFERENCES = 20

Data = Annotated[Path, typer.Option(help="Folder below which the views' Parquet files lie.")]


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
    manifest: ManifestOption = None,
    as_json: AsJson = False,
) -> None:
    """Build a training set: for each row of the spine what a model would have been given at that moment.

    Try it:  headrace features training-set flights --spine spine.parquet --time-column at --out train.parquet
    """
    found, folder = manifest_of(manifest, settings_here())
    with one_sentence():
        from featurecache.on_demand import load_functions
        from featurecache.training_set import Options, Spine, build

        with ProgressDisplay("training set") as display:
            card = build(
                found,
                service,
                Spine(spine, time_column, keep or None),
                data,
                out,
                functions=load_functions(found, folder),
                options=Options(
                    statuses=statuses, when_refused="leave_out" if leave_out else "refuse"
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
    manifest: ManifestOption = None,
    store: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Compare what the store says with what the files say, for a sample of entities.

    Try it:  headrace features verify airport_weather --data data
    """
    settings, found = settings_and_manifest(manifest)
    with one_sentence():
        from featurecache.store_asking import StoreAsk
        from featurecache.store_keys import StoreKeys
        from featurecache.verify import Sampling
        from featurecache.verify import verify as compared

        for name in views or []:
            if found.view(name).source is None:
                refuse(f"view '{name}' has no files to compare with")
        moment_us = time.time_ns() // 1000
        with store_clients(store_settings_of(store, settings)) as clients:
            report = compared(
                found,
                data,
                StoreAsk(found, StoreKeys(clients), moment_us),
                moment_us=moment_us,
                views=views or None,
                sampling=Sampling(entities=entities, seed=seed),
            )
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _print_report(report)
    if report.agreement < min_agreement:
        raise typer.Exit(1)


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
                f"{one.agreement:.4%}",
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
