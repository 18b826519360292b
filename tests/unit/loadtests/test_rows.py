import pytest

from loadtests import rows
from loadtests.failures import BenchError


def test_names_are_unique() -> None:
    assert len(set(rows.NAMES)) == len(rows.NAMES)


def test_all_rows_are_taken_when_none_is_named() -> None:
    assert rows.select([]) == list(rows.NAMES)


def test_patterns_keep_the_order_of_the_rows() -> None:
    assert rows.select(["grpc-8x8-*", "http-32-echo"]) == [
        "http-32-echo",
        "grpc-8x8-headrace",
        "grpc-8x8-grpcaio",
        "grpc-8x8-echo",
    ]


def test_a_pattern_without_a_row_is_an_error() -> None:
    with pytest.raises(BenchError, match="no row matches 'htp'"):
        rows.select(["http-*", "htp"])
