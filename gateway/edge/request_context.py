"""What an enrichment, or the plan of a rollout, wants of a request besides its tensors: parameters and headers.

Decides how they are found, the same for both wires: as they came, in the order in which they are wanted, None for what
is absent. It is asked only for servables that want any, so that others pay nothing; and it must never judge a value,
since only who wants it knows what it is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from gateway.messages import ContextValue, PredictRequest
from gateway.ports import ContextNames

HeaderFields: TypeAlias = Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]
"""Names in lower case, and values. Of several lines with one name the last counts, as in gRPC's metadata."""


class WantedContext:
    """The names that are wanted of requests to one servable."""

    __slots__ = ("_headers", "_no_headers", "absent", "parameters")

    def __init__(self, names: ContextNames) -> None:
        self.parameters = names.parameters
        self.absent: tuple[ContextValue, ...] = (None,) * len(names.parameters)
        """The values of the parameters in a request that has none."""
        self._headers = [name.encode() for name in names.headers]
        self._no_headers: tuple[None, ...] = (None,) * len(self._headers)

    def note(
        self,
        request: PredictRequest,
        values: tuple[ContextValue, ...],
        headers: HeaderFields,
        *,
        wants_feature_status: bool,
    ) -> None:
        """Write what was found into a request; ``values`` are those of the wanted parameters."""
        request.context = values + self._values_of(headers) if self._headers else values
        request.wants_feature_status = wants_feature_status

    def _values_of(self, headers: HeaderFields) -> tuple[ContextValue, ...]:
        """The values of the wanted headers, each byte a character: headers have no other encoding."""
        found = dict(headers)
        values = tuple(map(found.get, self._headers))
        if values == self._no_headers:
            return self._no_headers
        return tuple(
            [None if one is None else one.strip(b" \t").decode("latin-1") for one in values]
        )
