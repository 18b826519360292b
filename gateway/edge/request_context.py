"""What an enrichment, or the plan of a rollout, wants of a request besides its tensors: parameters and headers.

Decides how they are found, the same for both wires: as they came, in the order in which they are wanted, None for what
is absent. It is asked only for servables that want any, so that others pay nothing; and it must never judge a value,
since only who wants it knows what it is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from gateway.messages import ContextValue, PredictRequest
from gateway.ports import ContextNames

HeaderFields: TypeAlias = dict[bytes, bytes] | Iterable[tuple[bytes, bytes]]
"""Names in lower case, and values. Of several lines with one name the last counts, as in gRPC's metadata."""


class WantedContext:
    """The names that are wanted of requests to one servable."""

    __slots__ = (
        "_last_headers",
        "_last_values",
        "_no_headers",
        "_places",
        "absent",
        "parameters",
    )

    def __init__(self, names: ContextNames) -> None:
        self.parameters = names.parameters
        self.absent: tuple[ContextValue, ...] = (None,) * len(names.parameters)
        """The values of the parameters in a request that has none."""
        self._places = {name.encode(): place for place, name in enumerate(names.headers)}
        self._no_headers: tuple[ContextValue, ...] = (None,) * len(self._places)
        # A head that the front remembers is one object for all requests that have it, as are the headers of a stream.
        self._last_headers: HeaderFields = ()
        self._last_values: tuple[ContextValue, ...] = self._no_headers

    def note(
        self,
        request: PredictRequest,
        values: tuple[ContextValue, ...],
        headers: HeaderFields,
    ) -> None:
        """Write what was found into a request; ``values`` are those of the wanted parameters.

        ``headers`` do not change after this.
        """
        if headers is not self._last_headers:
            self._last_values, self._last_headers = self._values_of(headers), headers
        request.context = values + self._last_values

    def _values_of(self, headers: HeaderFields) -> tuple[ContextValue, ...]:
        """The values of the wanted headers, each byte a character: headers have no other encoding."""
        places = self._places
        if isinstance(headers, dict):
            headers = [(name, headers[name]) for name in places if name in headers]
        values: list[ContextValue] | None = None
        # Most requests have none of them, and a look at each header costs half of what a dict of them would.
        for name, value in headers:
            if name in places:
                if values is None:
                    values = list(self._no_headers)
                values[places[name]] = value.strip(b" \t").decode("latin-1")
        return self._no_headers if values is None else tuple(values)
