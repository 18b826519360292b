"""Hop 6, from the request's side: join the lane of the servable and wait for the answer.

Holds a counted handle on the version for as long as the request is inside, so that a version can drain. It must
never batch or run anything itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gateway.errors import CallCancelled
from gateway.messages import Prediction, RoutedRequest

if TYPE_CHECKING:
    from gateway.pipeline.lane import Lane
    from gateway.ports import Servable


class Dispatch:
    """The innermost hop: every servable has its lane."""

    __slots__ = ("_lanes", "_on_drained")

    def __init__(
        self, lanes: Mapping[Servable, Lane], on_drained: Callable[[Servable], None]
    ) -> None:
        """``on_drained`` is told when the last caller of a version that was retired has left."""
        self._lanes = lanes
        self._on_drained = on_drained

    async def __call__(self, routed: RoutedRequest, /) -> Prediction:
        servable = routed.servable
        lane = self._lanes[servable]
        servable.acquire()
        try:
            ticket = lane.submit(routed.request)
            try:
                return await ticket
            except CallCancelled:
                lane.withdraw(ticket)
                raise
        finally:
            if servable.release():
                self._on_drained(servable)
