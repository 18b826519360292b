"""What can be wrong with definitions, rows and stores, each with a sentence for the person who can mend it.

Decides nothing; it must never know how a fault reaches a caller.
"""

from __future__ import annotations

from featurecache.status import Status


class FeatureError(Exception):
    """Base of everything that this package refuses."""


class DefinitionError(FeatureError):
    """Definitions that cannot be used, or clash with each other or with what was applied before."""


class UnknownViewError(DefinitionError):
    """A view that the manifest does not have."""


class RowError(FeatureError):
    """Values that cannot become a row: a missing column, another type, a key that is too long."""


class SourceError(FeatureError):
    """The store could not be asked, or did not answer as it should."""


class UnfillableError(FeatureError):
    """A request that cannot be completed: a value is missing for which nothing may stand in."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status
        """What is the matter with the value."""
