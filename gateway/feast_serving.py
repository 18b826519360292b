"""Rows from a store that Feast writes, as the settings describe it.

Part of the composition root: decides which of Feast's names is which of ours. Rows are made by the manifest as it was
at the start, so it must never let a model be served that was defined otherwise since: it would be given defaults.
"""

from __future__ import annotations

from featurecache.errors import DefinitionError
from featurecache.feast.feast_layout import FeastLayout
from featurecache.feast.feast_opening import open_feast
from featurecache.feast.feast_source import FeastSource
from featurecache.manifests.manifest import Manifest
from featurecache.sources.ports import RowSource
from featurecache.sources.source_limits import SourceLimits
from foundation.store import Store
from gateway.settings import FeatureSettings


def feast_source(
    settings: FeatureSettings, store: Store, manifest: Manifest, limits: SourceLimits
) -> FeastSource:
    """Not connected yet; ``DefinitionError`` when manifest, names or address cannot be used for that."""
    if store.is_private:
        raise DefinitionError(
            "a private store has nothing of Feast's in it; "
            "set store.redis_url to the server that Feast writes to"
        )
    project = settings.feast_project or manifest.project
    layout = FeastLayout(manifest, project, feast_names(settings.feast_views))
    return open_feast(store.url, layout, limits)


def layout_of(source: RowSource) -> FeastLayout | None:
    """How a source's rows lie with Feast; None for rows of our own."""
    return source.layout if isinstance(source, FeastSource) else None


def feast_names(text: str) -> dict[str, str]:
    """``features.feast_views``: ``ours=theirs,…`` → ours → theirs."""
    names: dict[str, str] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if not ours or not theirs:
            raise DefinitionError(
                f"feast_views: '{pair}' is no pair of names; write OURS=THEIRS, with commas between pairs"
            )
        if ours in names:
            raise DefinitionError(f"feast_views: '{ours}' stands twice")
        names[ours] = theirs
    return names
