"""Decides what the gateway's own metrics say about late answers.

Lateness is judged where the answer is written: the client also sees the network and itself. It
must never turn a counter that is missing into a zero.
"""

import http.client
import re

from loadtests.server_process import ServerProcess

LATE = "headrace_late_answers_total"
_ANY_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_SAMPLE = re.compile(rf"^{LATE}(?:\{{[^}}]*\}})?\s+(\S+)", re.MULTILINE)


def late_answers(server: ServerProcess) -> float | None:
    """The counter summed over its labels; nothing when it is not exported."""
    if "admin" not in server.addresses:
        return None
    return counter_sum(scrape(*server.addresses["admin"]))


def counter_sum(exposition: str) -> float | None:
    """Reads the counter out of the text that Prometheus would scrape."""
    samples = [float(value) for value in _SAMPLE.findall(exposition)]
    # A declared counter without samples has labels that nothing has used yet.
    declared = f"# TYPE {LATE}" in exposition or f"# TYPE {LATE.removesuffix('_total')} " in (
        exposition
    )
    return sum(samples) if samples or declared else None


def samples_of(exposition: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """The samples of one metric by their labels; empty when there are none."""
    return {
        tuple(_LABEL.findall(labels)): float(value)
        for metric, labels, value in _ANY_SAMPLE.findall(exposition)
        if metric == name
    }


def scrape(host: str, port: int) -> str:
    """The text that Prometheus would read; empty when there is none to be had."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        reply = connection.getresponse()
        text = reply.read().decode(errors="replace")
    except OSError:
        return ""
    finally:
        connection.close()
    return text if reply.status == 200 else ""
