"""What all ``headrace features`` commands do alike: find the manifest and the store, and end with one sentence.

Decides what is used where no option says it. It must never import what only some commands need: ``--help`` is quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurecache.errors import DefinitionError, FeatureError, RowError, SourceError
from featurecache.manifests.applying import MANIFEST_NAME, read_manifest
from featurecache.manifests.manifest import Manifest
from foundation.store import StoreError, StoreSettings, open_store
from foundation.store_url import StoreUrlError, parse_store_url
from gateway.settings import GatewaySettings
from headrace.command_line import fail, refuse, settings_here

if TYPE_CHECKING:
    from featurecache.writing.store_client import StoreClients

DEFAULT_FOLDER = Path("features")
INTERRUPTED = 130

ManifestOption = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        show_default=False,
        help="Manifest, or its folder. \\[default: features.manifest of headrace.toml, else features/]",
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        show_default=False,
        help="Address, such as redis://localhost:6379. \\[default: store.redis_url of headrace.toml or"
        " HEADRACE_STORE_REDIS_URL, else the private store]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]


def manifest_of(given: Path | None, settings: GatewaySettings) -> tuple[Manifest, Path]:
    """The manifest and the folder where it lies; without one the command ends."""
    path = given or Path(settings.features.manifest or DEFAULT_FOLDER)
    try:
        manifest = read_manifest(path)
    except DefinitionError as error:
        refuse(str(error))
    return manifest, path if path.name != MANIFEST_NAME and path.is_dir() else path.parent


def store_settings_of(given: str | None, settings: GatewaySettings) -> StoreSettings:
    """As the option says, else as configured; an option that is no address ends the command."""
    if given:
        try:
            parse_store_url(given)
        except StoreUrlError as error:
            refuse(f"--store: {error}")
    state_dir = settings.store.state_dir
    return StoreSettings(redis_url=given, state_dir=state_dir) if given else settings.store


@contextmanager
def store_clients(settings: StoreSettings) -> Iterator[StoreClients]:
    """The store, in use until the end; one that cannot be had ends the command."""
    from featurecache.writing.store_client import StoreClients  # redis-py, for those who need it

    try:
        with open_store(settings) as store, StoreClients(store.url) as clients:
            yield clients
    except StoreError as error:
        fail(str(error))


@contextmanager
def one_sentence(interrupted: str = "interrupted") -> Iterator[None]:
    """What goes wrong in the block becomes the command's last line and its exit code; ``interrupted`` is Ctrl-C's."""
    try:
        yield
    except (DefinitionError, RowError) as error:
        refuse(str(error))
    except (SourceError, FeatureError) as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("pyarrow", "duckdb"):
            raise
        refuse(
            f"this command needs {error.name}; install it with: pip install 'headrace[features]'"
        )
    except KeyboardInterrupt:
        typer.echo(f"headrace: {interrupted}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def settings_and_manifest(given: Path | None) -> tuple[GatewaySettings, Manifest]:
    """For commands that need both."""
    settings = settings_here()
    return settings, manifest_of(given, settings)[0]


def packed_only(settings: GatewaySettings) -> None:
    """Ends a command that writes rows of ours, or takes them apart, where the store is Feast's."""
    if settings.features.layout == "feast":
        refuse(
            'this command knows only our own rows, and features.layout is "feast"; write them with Feast, '
            "look at them with `headrace features get`"
        )


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Columns side by side, as wide as they need to be."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def duration(seconds: float | None) -> str:
    """``6h``, ``90s`` … as definitions write it; "-" for none."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:.3g}s" if seconds < 100 else f"{seconds:.0f}s"
