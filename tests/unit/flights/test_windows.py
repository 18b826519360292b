from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from examples.flights.flight_log import NEVER, Ints
from examples.flights.windows import NO_GROUP, Events, grouped

EVENT = st.tuples(
    st.sampled_from([NO_GROUP, 0, 1]),
    st.one_of(st.integers(0, 12), st.just(NEVER)),
    st.integers(-5, 5),
    st.integers(0, 12),
    st.integers(0, 6),
)
"""Group, minute, value of a flight's event; end and length of the window it asks about."""


@given(st.lists(EVENT, min_size=1, max_size=12))
def test_sums_are_those_of_the_others_in_the_window(flights: list[tuple[int, ...]]) -> None:
    group, minute, value, end, length = columns(flights)
    count, total = Events(group, minute, value).others_between(end - length, end)
    for one in range(len(flights)):
        others = [
            int(value[other])
            for other in range(len(flights))
            if other != one
            and group[other] == group[one] != NO_GROUP
            and end[one] - length[one] <= minute[other] < end[one]
        ]
        assert (count[one], total[one]) == (len(others), sum(others))


@given(st.lists(EVENT, min_size=1, max_size=12))
def test_the_latest_is_another_one_strictly_before(flights: list[tuple[int, ...]]) -> None:
    group, minute, value, before, _ = columns(flights)
    latest = Events(group, minute, value).latest_other(before)
    for one in range(len(flights)):
        minutes = [
            int(minute[other])
            for other in range(len(flights))
            if other != one
            and group[other] == group[one] != NO_GROUP
            and minute[other] < before[one]
        ]
        found = int(latest[one])
        assert found != one
        assert (minute[found] if found >= 0 else None) == (max(minutes) if minutes else None)


def test_names_that_are_missing_form_no_group() -> None:
    carrier = np.array(["AA", "AA", "UA", ""], dtype=np.object_)
    dest = np.array(["BOS", "BOS", "BOS", "BOS"], dtype=np.object_)
    first, same, other, none = grouped(carrier, dest)
    assert first == same != other
    assert none == NO_GROUP


def columns(flights: list[tuple[int, ...]]) -> tuple[Ints, ...]:
    return tuple(np.array(column, dtype=np.int64) for column in zip(*flights, strict=True))
