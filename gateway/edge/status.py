"""The one table that says what an error code is on each wire.

Triton's table is the base (bad input 400, unknown 404, not ready 503), plus 504/DEADLINE_EXCEEDED for deadlines,
503 with ``Retry-After``/UNAVAILABLE for overload, 429 with it/RESOURCE_EXHAUSTED for quotas and
424/FAILED_PRECONDITION for feature values that are missing. Nothing else may translate errors, and no text of an
unexpected exception leaves the process.
"""

from __future__ import annotations

import logging
import math

from gateway.errors import CallCancelled, ErrorCode, HeadraceError

logger = logging.getLogger("headrace.edge")

HTTP_STATUS: dict[ErrorCode, int] = {
    ErrorCode.INVALID_ARGUMENT: 400,
    ErrorCode.TOO_LARGE: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.PERMISSION_DENIED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.FEATURES_MISSING: 424,
    ErrorCode.QUOTA_EXCEEDED: 429,
    ErrorCode.UNIMPLEMENTED: 501,
    ErrorCode.NOT_READY: 503,
    ErrorCode.OVERLOADED: 503,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.CANCELLED: 400,
    ErrorCode.INTERNAL: 500,
}

GRPC_STATUS: dict[ErrorCode, int] = {
    ErrorCode.INVALID_ARGUMENT: 3,
    ErrorCode.TOO_LARGE: 8,
    ErrorCode.NOT_FOUND: 5,
    ErrorCode.METHOD_NOT_ALLOWED: 12,
    ErrorCode.UNAUTHENTICATED: 16,
    ErrorCode.PERMISSION_DENIED: 7,
    ErrorCode.FEATURES_MISSING: 9,
    ErrorCode.QUOTA_EXCEEDED: 8,
    ErrorCode.UNIMPLEMENTED: 12,
    ErrorCode.NOT_READY: 14,
    ErrorCode.OVERLOADED: 14,
    ErrorCode.DEADLINE_EXCEEDED: 4,
    ErrorCode.CANCELLED: 1,
    ErrorCode.INTERNAL: 13,
}


def as_headrace_error(error: BaseException) -> HeadraceError:
    """Any exception as an error of ours. What nobody expected is logged whole and told as INTERNAL.

    This is where an exception ends, so its traceback goes: it leads to frames that hold the request and, by way of
    their callers, the exception itself. Such a cycle would keep every failed request until the next collection.
    """
    if isinstance(error, HeadraceError):
        ours = error
    elif isinstance(error, CallCancelled):
        ours = HeadraceError(ErrorCode.CANCELLED, "the caller went away")
    else:
        logger.error("a request failed in a way nobody expected", exc_info=error)
        ours = HeadraceError(ErrorCode.INTERNAL, "internal error; the server's log says more")
    error.__traceback__ = None
    return ours


def retry_after_header_s(error: HeadraceError) -> str | None:
    """The value of ``Retry-After``: whole seconds, at least 1 (RFC 9110, section 10.2.3)."""
    if error.retry_after_s is None:
        return None
    return str(max(1, math.ceil(error.retry_after_s)))
