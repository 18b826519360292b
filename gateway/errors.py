"""The error vocabulary of the gateway.

One flat list of codes, one exception that carries them. Decides nothing about wires: ``edge/status.py`` is the
only place that knows which HTTP or gRPC status a code becomes.
"""

from __future__ import annotations

from enum import Enum


class ErrorCode(Enum):
    """Why a call failed, independent of the protocol that carried it."""

    INVALID_ARGUMENT = "invalid_argument"
    """The caller sent something that can never work."""
    TOO_LARGE = "too_large"
    """The caller sent more than we take."""
    NOT_FOUND = "not_found"
    """No such model, version or path."""
    METHOD_NOT_ALLOWED = "method_not_allowed"
    """The path exists, the HTTP method does not."""
    UNAUTHENTICATED = "unauthenticated"
    """Keys are asked for, and none that is in force came along."""
    PERMISSION_DENIED = "permission_denied"
    """We know who asks, and may not let them."""
    QUOTA_EXCEEDED = "quota_exceeded"
    """Refused at once, because the caller's key has used up what it may."""
    UNIMPLEMENTED = "unimplemented"
    """Valid protocol, but not offered here."""
    NOT_READY = "not_ready"
    """The model or the server exists and cannot answer now."""
    OVERLOADED = "overloaded"
    """Refused at once, because it could not be answered in time or a queue is full."""
    FEATURES_MISSING = "features_missing"
    """Too many of the request's feature values would have had to be guessed, or one that may not be."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """The caller's deadline passed before the answer was ready."""
    CANCELLED = "cancelled"
    """The caller went away."""
    INTERNAL = "internal"
    """Our fault, or the model's."""


class CallCancelled(BaseException):
    """The caller went away. Thrown into a call at its wait; no ``except Exception`` may swallow it."""


class HeadraceError(Exception):
    """A failed call: a code for programs, a sentence for people.

    ``retry_after_s`` is set for OVERLOADED, QUOTA_EXCEEDED and NOT_READY when a later try may work.
    """

    __slots__ = ("code", "message", "retry_after_s")

    def __init__(
        self, code: ErrorCode, message: str, *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"HeadraceError({self.code.name}, {self.message!r})"


def invalid(message: str) -> HeadraceError:
    """The caller's mistake, in one sentence that says what to change."""
    return HeadraceError(ErrorCode.INVALID_ARGUMENT, message)


def unknown_model(name: str) -> HeadraceError:
    """Neither is it served, nor does it lie in the repository."""
    return HeadraceError(
        ErrorCode.NOT_FOUND, f"unknown model '{name}': it is not in the repository"
    )
