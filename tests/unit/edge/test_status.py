from __future__ import annotations

import logging
from http import HTTPStatus

import pytest

from gateway.edge.status import (
    GRPC_STATUS,
    HTTP_STATUS,
    as_headrace_error,
    retry_after_header_s,
)
from gateway.errors import CallCancelled, ErrorCode, HeadraceError

# grpc/status.h, by number.
OK, UNKNOWN, RESOURCE_EXHAUSTED = 0, 2, 8

TRITON = {
    ErrorCode.INVALID_ARGUMENT: (400, 3),
    ErrorCode.NOT_FOUND: (404, 5),
    ErrorCode.UNIMPLEMENTED: (501, 12),
    ErrorCode.NOT_READY: (503, 14),
    ErrorCode.CANCELLED: (400, 1),
    ErrorCode.INTERNAL: (500, 13),
}
OURS = {
    ErrorCode.TOO_LARGE: (400, 8),
    ErrorCode.METHOD_NOT_ALLOWED: (405, 12),
    ErrorCode.UNAUTHENTICATED: (401, 16),
    ErrorCode.PERMISSION_DENIED: (403, 7),
    ErrorCode.FEATURES_MISSING: (424, 9),
    ErrorCode.QUOTA_EXCEEDED: (429, 8),
    ErrorCode.OVERLOADED: (503, 14),
    ErrorCode.DEADLINE_EXCEEDED: (504, 4),
}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_its_status_on_both_wires(code: ErrorCode) -> None:
    assert (HTTP_STATUS[code], GRPC_STATUS[code]) == (TRITON | OURS)[code]


def test_the_table_knows_no_other_codes() -> None:
    assert set(HTTP_STATUS) == set(GRPC_STATUS) == set(ErrorCode)


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_looks_like_one(code: ErrorCode) -> None:
    assert HTTPStatus(HTTP_STATUS[code]) >= HTTPStatus.BAD_REQUEST
    assert GRPC_STATUS[code] not in (OK, UNKNOWN)
    # Clients take it for "the caller asks too much", so that overload, which is nobody's fault, is not told so.
    callers_fault = code in (ErrorCode.QUOTA_EXCEEDED, ErrorCode.TOO_LARGE)
    assert (GRPC_STATUS[code] == RESOURCE_EXHAUSTED) == callers_fault


def test_our_own_errors_pass_unchanged() -> None:
    error = HeadraceError(ErrorCode.NOT_FOUND, "no such model")
    assert as_headrace_error(error) is error


def test_a_cancellation_is_the_callers_end() -> None:
    assert as_headrace_error(CallCancelled()).code is ErrorCode.CANCELLED


@pytest.mark.parametrize("error", [KeyError("secret"), MemoryError(), AssertionError("secret")])
def test_what_nobody_expected_is_logged_whole_and_told_as_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="headrace.edge"):
        ours = as_headrace_error(error)
    assert ours.code is ErrorCode.INTERNAL
    assert "secret" not in ours.message
    assert type(error).__name__ in caplog.text


def test_an_error_that_ended_holds_no_request_any_more() -> None:
    """Its traceback would keep the frames of the request alive, and they keep the error."""
    error = HeadraceError(ErrorCode.INTERNAL, "failed")
    with pytest.raises(HeadraceError):
        raise error
    assert as_headrace_error(error).__traceback__ is None


@pytest.mark.parametrize(
    ("retry_after_s", "header"),
    [(None, None), (0.0, "1"), (0.001, "1"), (1.0, "1"), (1.001, "2"), (59.5, "60")],
)
def test_retry_after_is_in_whole_seconds(retry_after_s: float | None, header: str | None) -> None:
    error = HeadraceError(ErrorCode.OVERLOADED, "full", retry_after_s=retry_after_s)
    assert retry_after_header_s(error) == header


def test_an_error_can_be_read() -> None:
    error = HeadraceError(ErrorCode.OVERLOADED, "full", retry_after_s=1.0)
    assert repr(error) == "HeadraceError(OVERLOADED, 'full')"
    assert str(error) == "full"
