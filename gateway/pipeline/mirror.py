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


def mirror(taker: CopyTaker, next_service: Service[RoutedRequest]) -> Service[RoutedRequest]:
    """The hop: offers what was answered to the one who makes copies.

    A plain function: calling one costs half of what calling an object does, and every request passes here.
    """

    async def mirrored(routed: RoutedRequest) -> Prediction:
        try:
            prediction = await next_service(routed)
        except BaseException:
            taker.primary_failed(routed)
            raise
        taker.offer(routed, prediction)
        return prediction

    def hop(routed: RoutedRequest, /) -> Coroutine[Any, Any, Prediction]:
        return mirrored(routed) if routed.shadows else next_service(routed)

    return hop
