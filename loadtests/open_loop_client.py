"""Decides what one open-loop run reports: a process of its own, one JSON line on stdout.

Run as `python -m loadtests.open_loop_client`, pinned to the load core by the bench. It must
never judge: ratios and verdicts are made where the capacity is known.
"""

import argparse
import sys
from collections import Counter

import msgspec

from loadtests import arrivals, json_payload, protobuf_payload
from loadtests.drive import Driver, Flight
from loadtests.grpc_connection import GrpcConnection
from loadtests.http_connection import HttpConnection
from loadtests.load_result import percentile
from loadtests.replies import Connection

_HELD_BACK_S = 0.001


class OpenLoopReport(msgspec.Struct, frozen=True):
    """The client's view of one run."""

    scheduled: int
    seconds: float
    outcomes: dict[str, int]
    in_time: int
    late: int
    p50_ms: float | None
    p99_ms: float | None
    refusal_p99_ms: float | None
    # How late the client itself was: above a few milliseconds, its figures are about itself.
    client_lag_p99_ms: float | None
    client_lag_max_ms: float | None
    # Requests that found every connection taken. Their wait counts as latency.
    held_back: int
    connections_lost: int
    details: dict[str, int]


def summarize(flight: Flight, seconds: float, deadline_s: float) -> OpenLoopReport:
    """Counts by outcome; in time means answered within the deadline, from the due time."""
    answered = flight.latencies("answered")
    in_time = sum(latency <= deadline_s for latency in answered)
    rows = zip(flight.ended, flight.outcome, strict=True)
    last_answer = max((end for end, kind in rows if kind == "answered"), default=0.0)
    lags = sorted(at - due for due, at in zip(flight.due, flight.noticed, strict=True) if at)
    waits = (sent - at for at, sent in zip(flight.noticed, flight.sent, strict=True) if sent)
    return OpenLoopReport(
        scheduled=len(flight.due),
        # Until the last answer: those after the last arrival must not raise the rate.
        seconds=max(seconds, last_answer),
        outcomes=dict(Counter(flight.outcome)),
        in_time=in_time,
        late=len(answered) - in_time,
        p50_ms=_milliseconds(answered, 0.50),
        p99_ms=_milliseconds(answered, 0.99),
        refusal_p99_ms=_milliseconds(flight.latencies("refused"), 0.99),
        client_lag_p99_ms=_milliseconds(lags, 0.99),
        client_lag_max_ms=_milliseconds(lags, 1.0),
        held_back=sum(wait > _HELD_BACK_S for wait in waits),
        connections_lost=flight.connections_lost,
        details=dict(sorted(flight.details.items(), key=lambda item: -item[1])[:8]),
    )


def _milliseconds(ordered: list[float], share: float) -> float | None:
    return percentile(ordered, share) * 1000 if ordered else None


def _connect(options: argparse.Namespace) -> list[Connection]:
    address, count = (options.host, options.port), options.connections
    if options.protocol == "grpc":
        message = protobuf_payload.infer_request(options.model)
        return [GrpcConnection(address, message, options.deadline_ms) for _ in range(count)]
    path = json_payload.infer_path(options.model)
    body = json_payload.infer_body(options.deadline_ms * 1000)
    return [HttpConnection(address, path, body) for _ in range(count)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One open-loop run; prints one line of JSON.")
    parser.add_argument("--protocol", choices=("http", "grpc"), required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--arrivals", choices=arrivals.PATTERNS, default="poisson")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline-ms", type=int, default=50)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--grace", type=float, default=1.0, help="wait after the last send")
    return parser.parse_args()


def main() -> None:
    """Connects, drives, prints."""
    options = _options()
    due = arrivals.schedule(options.arrivals, options.rate, options.seconds, options.seed)
    connections = _connect(options)
    try:
        flight = Driver(connections, due).run(options.grace)
    finally:
        for connection in connections:
            connection.close()
    report = summarize(flight, options.seconds, options.deadline_ms / 1000)
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


if __name__ == "__main__":
    main()
