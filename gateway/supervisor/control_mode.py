"""What ``repository.control`` allows.

Pure, and without the runtime that loads models: the supervisor asks here, too.
"""

from __future__ import annotations

from gateway.errors import ErrorCode, HeadraceError
from gateway.settings import RepositorySettings


def refuse_unless_explicit(settings: RepositorySettings) -> None:
    """Load and unload are for repositories that callers control."""
    if settings.control != "explicit":
        raise HeadraceError(
            ErrorCode.PERMISSION_DENIED,
            f'load and unload are off: repository.control is "{settings.control}", not "explicit"',
        )


def names_to_load(settings: RepositorySettings) -> set[str] | None:
    """The models to load at the start; None for all."""
    if settings.control != "explicit" or settings.startup_models.strip() == "*":
        return None
    return {name.strip() for name in settings.startup_models.split(",") if name.strip()}
