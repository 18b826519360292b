"""Decides what perf_analyzer is asked to do: the rows that are measured, and options that are only tried.

An option that the gateway does not offer stays on the list with the word that it is refused: whoever comes from Triton
should read that here and not find out alone. It must never start anything.
"""

from dataclasses import dataclass

from loadtests.servers import Protocol


@dataclass(frozen=True, slots=True)
class Row:
    """One front, one format of the tensors, one kind of load."""

    name: str
    protocol: Protocol
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Option:
    """One of the program's options, and whether the gateway does what it asks for."""

    name: str
    protocol: Protocol
    arguments: tuple[str, ...]
    is_offered: bool = True


OPTIONS: tuple[Option, ...] = (
    Option("eight rows a call", "http", ("-b", "8")),
    Option("a named version", "grpc", ("-x", "1")),
    Option("a fixed number of calls", "http", ("--request-count", "200")),
    Option("a request parameter", "grpc", ("--request-parameter", "priority:1:int")),
    Option("gzip requests", "grpc", ("--grpc-compression-algorithm", "gzip")),
    Option("deflate requests", "grpc", ("--grpc-compression-algorithm", "deflate")),
    Option("shared memory", "grpc", ("--shared-memory", "system"), is_offered=False),
)  # fmt: skip


def rows(rate: int, with_stream: bool) -> tuple[Row, ...]:
    """Every row; `rate` is calls per second of the open loop."""
    json = ("--input-tensor-format", "json", "--output-tensor-format", "json")
    fronts: list[tuple[str, Protocol, tuple[str, ...]]] = [
        ("REST, binary tensors", "http", ()),
        ("REST, JSON", "http", json),
        ("gRPC", "grpc", ()),
    ]
    if with_stream:
        fronts.append(("gRPC stream", "grpc", ("--streaming",)))
    # Asynchronous in the open loop: a thread that waits for an answer could not send the next call.
    poisson = ("--async", "--request-rate-range", str(rate), "--request-distribution", "poisson")
    loads = (
        ("c1", ("--concurrency-range", "1")),
        ("c16", ("--concurrency-range", "16")),
        (f"rate {rate:,}/s", poisson),
    )
    return tuple(
        Row(f"{front}, {load}", protocol, (*of_front, *of_load))
        for front, protocol, of_front in fronts
        for load, of_load in loads
    )
