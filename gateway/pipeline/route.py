"""Hop 4: which version answers.

Today the caller's own choice, or the newest version that the model's policy keeps. It must never run a model or
hold one: it names the servable, ``dispatch.py`` holds it.
"""

from __future__ import annotations

from gateway.messages import Prediction, PredictRequest, RoutedRequest
from gateway.ports import Catalog, Service


class Route:
    """Fixes the servable of a request."""

    __slots__ = ("_catalog", "_next")

    def __init__(self, catalog: Catalog, next_service: Service[RoutedRequest]) -> None:
        self._catalog = catalog
        self._next = next_service

    async def __call__(self, request: PredictRequest, /) -> Prediction:
        servable = self._catalog.find(request.model, request.version)
        return await self._next(RoutedRequest(request, servable))
