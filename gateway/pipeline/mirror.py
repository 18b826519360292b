"""The hop behind which copies begin: whoever is sampled for shadows is answered first, and then offered for copying.

Decides nothing but the order. It must never change an answer or an error, nor cost a request without shadows more than
one look: then the next hop's own coroutine is returned, without another around it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from gateway.messages import Prediction, RoutedRequest
from gateway.ports import Service


class CopyTaker(Protocol):
    """Who makes copies of requests that were answered. Neither call may raise, nor do more than take note."""

    def offer(self, routed: RoutedRequest, prediction: Prediction) -> None:
        """A request that has shadows, and its answer."""
        ...

    def primary_failed(self, routed: RoutedRequest) -> None:
        """The request itself failed, or its caller went away: there is nothing to compare with."""
        ...


class Mirror:
    """Offers what was answered to the one who makes copies."""

    __slots__ = ("_next", "_taker")

    def __init__(self, taker: CopyTaker, next_service: Service[RoutedRequest]) -> None:
        self._taker = taker
        self._next = next_service

    def __call__(self, routed: RoutedRequest, /) -> Coroutine[Any, Any, Prediction]:
        if not routed.shadows:
            return self._next(routed)
        return self._mirrored(routed)

    async def _mirrored(self, routed: RoutedRequest) -> Prediction:
        try:
            prediction = await self._next(routed)
        except BaseException:
            self._taker.primary_failed(routed)
            raise
        self._taker.offer(routed, prediction)
        return prediction
