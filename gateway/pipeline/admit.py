"""Hop 3: room in the process, or a refusal at once.

Translates the counting of ``core/admission.py`` into the call's own error. It must give back what it took on every
way out: answer, error, cancellation.
"""

from __future__ import annotations

from gateway.core.admission import Admission
from gateway.errors import ErrorCode, HeadraceError
from gateway.messages import Prediction, PredictRequest
from gateway.ports import Service

RETRY_AFTER_FULL_S = 1.0


class Admit:
    """Holds the process-wide permit around everything behind it."""

    __slots__ = ("_admission", "_next")

    def __init__(self, admission: Admission, next_service: Service[PredictRequest]) -> None:
        self._admission = admission
        self._next = next_service

    async def __call__(self, request: PredictRequest, /) -> Prediction:
        admission = self._admission
        size_bytes = request.size_bytes
        if not admission.admit(size_bytes):
            raise HeadraceError(
                ErrorCode.OVERLOADED,
                "the gateway is full: too many requests, or bytes of requests, in flight; try again later",
                retry_after_s=RETRY_AFTER_FULL_S,
            )
        try:
            return await self._next(request)
        finally:
            admission.release(size_bytes)
