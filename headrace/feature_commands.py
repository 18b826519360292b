"""``headrace features``: definitions to a manifest, what it holds, and files into the store. Thin.

Decides what is printed. It must never decide what may be applied or loaded: ``featurecache`` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from featurecache.manifests.manifest import Manifest, ViewSpec
from headrace import feature_offline_commands, feature_row_commands
from headrace.command_line import refuse
from headrace.feature_options import (
    DEFAULT_FOLDER,
    AsJson,
    ManifestOption,
    StoreOption,
    duration,
    one_sentence,
    packed_only,
    print_table,
    settings_and_manifest,
    store_clients,
    store_settings_of,
)
from headrace.progress_display import ProgressDisplay

if TYPE_CHECKING:
    from featurecache.writing.loader import LoadSummary

app = typer.Typer(
    help="Define features, load them into the store, and look at what is there.",
    no_args_is_help=True,
)


@app.command()
def apply(
    definitions: Annotated[Path, typer.Argument(help="Python file with the definitions.")],
    to: Annotated[
        Path, typer.Option(help="Folder for the manifest; commit it, gateways read it.")
    ] = DEFAULT_FOLDER,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also when rows or models of the old ones become unreadable."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, write nothing.")
    ] = False,
) -> None:
    """Compile definitions into a manifest. Refuses what would break rows or models that are in use.

    Try it:  headrace features apply definitions.py --to features

    The file is Python and is run. A definition looks like this:

        weather = FeatureView("weather", entity=airport, max_age="3h",
                              source=ParquetSource("weather/*.parquet", event_time="known_at"),
                              columns=[Column("temp", Float32)])
    """
    from featurecache.manifests.applying import apply_definitions

    with one_sentence():
        applied = apply_definitions(definitions, to, force=force, dry_run=dry_run)
    for change in applied.changes:
        typer.echo(change)
    for note in applied.notes:
        typer.echo(note, err=True)
    manifest = applied.manifest
    if not applied.changes:
        typer.echo(f"nothing changed: {applied.path} is at revision {manifest.revision}")
        return
    would = "would become" if dry_run else "is now"
    typer.echo(f"{applied.path} {would} revision {manifest.revision}")
    loadable = [view.name for view in manifest.views if view.source is not None]
    if loadable and not dry_run:
        where = "" if to == DEFAULT_FOLDER else f" --manifest {to}"
        typer.echo(
            f"next: headrace features load {' '.join(loadable[:3])} --data FOLDER{where}", err=True
        )


@app.command("list")
def list_all(manifest: ManifestOption = None, as_json: AsJson = False) -> None:
    """Show entities, views with their four times, and services.

    Try it:  headrace features list --manifest features
    """
    _, found = settings_and_manifest(manifest)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    _print_manifest(found)


def _print_manifest(manifest: Manifest) -> None:
    typer.echo(f"project {manifest.project}, revision {manifest.revision}\n")
    entities = [
        [one.name, ", ".join(f"{key} {type_}" for key, type_ in one.keys.items())]
        for one in manifest.entities
    ]
    print_table(["ENTITY", "KEYS"], entities)
    typer.echo("")
    views = [
        [
            view.name,
            view.entity,
            str(len(view.columns)),
            str(view.schema.row_bytes),
            duration(view.max_age_s),
            duration(view.retention_s),
            duration(view.cache_ttl_s),
            duration(view.stale_if_error_s),
            view.owner or "-",
            "pii" if view.pii else "",
        ]
        for view in manifest.views
    ]
    print_table(
        ["VIEW", "ENTITY", "COLUMNS", "ROW BYTES", "MAX AGE", "RETENTION", "CACHE", "IF ERROR", "OWNER", ""],
        views,
    )  # fmt: skip
    typer.echo("")
    services = [
        [one.name, str(len(one.refs)), one.owner or "-", one.description]
        for one in manifest.services
    ]
    print_table(["SERVICE", "INPUTS", "OWNER", "DESCRIPTION"], services)


@app.command()
def load(
    views: Annotated[
        list[str] | None, typer.Argument(help="Feature views. \\[default: all that have a source]")
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Folder below which the views' Parquet files lie.")
    ] = Path(),
    manifest: ManifestOption = None,
    store: StoreOption = None,
    on_bad_row: Annotated[
        Literal["refuse", "skip"],
        typer.Option(
            help="A row that cannot be loaded stops all before it begins, or is left out."
        ),
    ] = "refuse",
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Do not go on where an interrupted load stopped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write Parquet files into the store. All of them are checked before the first row is written.

    Try it:  headrace features load airport_weather --data data

    A newer row is never replaced by an older one, so loads may overlap, come in any order, and be repeated. After an
    interruption the same command goes on where it stopped.
    """
    settings, found = settings_and_manifest(manifest)
    packed_only(settings)
    with one_sentence("interrupted; the same command goes on"):
        chosen = _chosen_views(found, views or [])
        from featurecache.writing.loader import ViewLoader

        target = store_settings_of(store, settings)
        with store_clients(target) as clients:
            loaders = [
                ViewLoader(
                    found,
                    view,
                    data,
                    clients,
                    Path(target.state_dir),
                    on_bad_row=on_bad_row,
                    from_scratch=from_scratch,
                )
                for view in chosen
            ]
            for loader in loaders:
                with ProgressDisplay(f"checking {loader.view.name}") as display:
                    loader.check(display)
                if loader.resumes:
                    typer.echo(
                        f"{loader.view.name}: going on after {loader.resumes:,} rows of an interrupted load",
                        err=True,
                    )
            for loader in loaders:
                with ProgressDisplay(f"loading {loader.view.name}") as display:
                    summary = loader.load(display)
                _print_summary(summary, as_json=as_json)


def _chosen_views(manifest: Manifest, names: list[str]) -> list[ViewSpec]:
    chosen = [manifest.view(name) for name in dict.fromkeys(names)]
    chosen = chosen or [view for view in manifest.views if view.source is not None]
    if not chosen:
        refuse("no view of the manifest has a source; rows come by `headrace features push`")
    return chosen


def _print_summary(summary: LoadSummary, *, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(summary).decode())
        return
    counts = summary.counts
    parts = [
        f"{number:,} {what}"
        for number, what in (
            (counts.created, "created"),
            (counts.newer, "newer"),
            (counts.rewritten, "rewritten"),
            (counts.older, "older than what is there"),
            (counts.duplicates, "replaced by a newer row of the same file"),
            (counts.expired, "past their retention"),
            (summary.skipped, "skipped"),
        )
        if number
    ]
    new_rows = summary.rows - summary.resumed_rows
    rate = new_rows / summary.seconds if summary.seconds else 0.0
    files = f"{summary.files} file{'s' * (summary.files != 1)}"
    typer.echo(
        f"{summary.view}: {summary.rows:,} rows of {files}: {', '.join(parts) or 'none'} "
        f"({summary.seconds:.1f} s, {rate:,.0f} rows/s)"
    )
    for bad in summary.bad:
        typer.echo(f"  skipped {bad}", err=True)
    if counts.expired == summary.rows and summary.rows:
        typer.echo(
            f"  nothing was written: every event time is older than the retention of '{summary.view}'",
            err=True,
        )


feature_row_commands.register(app)
feature_offline_commands.register(app)
