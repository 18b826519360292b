"""Traces of sampled requests.

``Tracer`` picks requests (``core/sampling.py`` decides), and when such a request has ended, hands what its hops noted
to the exporter. OpenTelemetry is imported only where traces are wanted. Nothing here may cost a request that is not
picked more than the question, nor wait for the collector: what it does not take in time is dropped.
"""

from __future__ import annotations

import random
from importlib.util import find_spec
from typing import Protocol

from foundation.settings import SettingsError
from gateway.core.sampling import Sampler
from gateway.messages import Trace
from gateway.settings import TelemetrySettings

MAX_TRACESTATE_BYTES = 512
"""A longer ``tracestate`` is not passed on, as the specification allows."""


class Spans(Protocol):
    """Where ended traces go."""

    def emit(self, trace: Trace) -> None: ...
    def close(self, within_s: float) -> bool:
        """Send what is left; blocks for at most about ``within_s``. False when something could not be sent."""
        ...


class Tracer:
    """Picks requests and takes their traces. One for each process; call from the loop only."""

    def __init__(self, sampler: Sampler, spans: Spans) -> None:
        self._choose = sampler.choose
        self._sampler = sampler
        self._spans = spans
        self._random_bits = random.Random().getrandbits

    def begin(
        self, protocol: str, traceparent: bytes, tracestate: bytes, received_s: float
    ) -> Trace | None:
        """A trace to fill in, or None: this call is not traced."""
        parent = self._choose(traceparent, received_s)
        if parent is None:
            return None
        is_passed_on = parent.trace_id and len(tracestate) <= MAX_TRACESTATE_BYTES
        return Trace(
            protocol=protocol,
            trace_id=parent.trace_id or self._random_bits(128) or 1,
            parent_id=parent.span_id,
            state=tracestate.decode("latin-1") if is_passed_on else "",
            received_s=received_s,
        )

    def end(self, trace: Trace) -> None:
        """The call has its answer."""
        self._spans.emit(trace)

    def counts(self) -> dict[str, int]:
        """Calls that were traced, and calls that were not for the sake of ``trace_max_per_s``."""
        return {"taken": self._sampler.taken, "over_limit": self._sampler.over_limit}

    def close(self, within_s: float) -> bool:
        """Send what is left, blocking for at most about ``within_s``; False when something could not be sent."""
        return self._spans.close(within_s)


def open_tracer(settings: TelemetrySettings, version: str, wall_offset_s: float) -> Tracer | None:
    """The tracer that the settings ask for, or None. ``wall_offset_s``: wall clock minus monotonic clock."""
    if not settings.otlp_endpoint:
        return None
    from gateway.telemetry import otlp  # only where it is wanted

    spans = otlp.OtlpSpans(
        traces_url(settings.otlp_endpoint), settings.service_name, version, wall_offset_s
    )
    sampler = Sampler(settings.trace_sample_ratio, settings.trace_max_per_s, random.Random().random)
    return Tracer(sampler, spans)


def check(settings: TelemetrySettings) -> None:
    """Raises ``SettingsError`` when the traces that are asked for cannot be had."""
    if not settings.otlp_endpoint:
        return
    traces_url(settings.otlp_endpoint)
    for package in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            found = find_spec(package)
        except ImportError:
            found = None
        if found is None:
            raise SettingsError(
                f"telemetry.otlp_endpoint asks for traces, which need {package}: "
                "install headrace with the extra 'tracing'"
            )


def traces_url(endpoint: str) -> str:
    """Where traces are posted: the collector's address with OTLP's path, unless it ends with that already."""
    if not endpoint.startswith(("http://", "https://")):
        raise SettingsError(
            f"telemetry.otlp_endpoint must begin with http:// or https://, not '{endpoint}'"
        )
    base = endpoint.rstrip("/")
    return base if base.endswith("/v1/traces") else f"{base}/v1/traces"
