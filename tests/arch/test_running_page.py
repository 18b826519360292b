"""docs/running.md names every setting and every metric, as they are in the code."""

from __future__ import annotations

import re

import msgspec

from gateway.core.admission import Admission, AdmissionLimits
from gateway.settings import GatewaySettings
from gateway.telemetry.metrics import Metrics
from tests.arch.checkout import ROOT

PAGE = (ROOT / "docs" / "running.md").read_text("utf-8")


def test_every_setting_stands_on_the_page_with_its_default() -> None:
    settings = msgspec.to_builtins(GatewaySettings())
    missing = []
    for section, values in settings.items():
        start = PAGE.index(f"### `[{section}]`")
        table = PAGE[start:].split("###", 2)[1].removeprefix("#")
        missing += [
            f"[{section}] {key} = {default}"
            for key, default in values.items()
            if f"| `{key}` | `{default}` |" not in PAGE[start : start + len(table) + 10]
        ]
    assert not missing


def test_every_metric_stands_on_the_page() -> None:
    metrics = Metrics(Admission(AdmissionLimits()))
    metrics.lane("m", "1")
    counters = {family.name + "_total" for family in metrics.collect() if family.type == "counter"}
    others = {family.name for family in metrics.collect() if family.type != "counter"}
    named = set(re.findall(r"`(headrace_\w+)`", PAGE))
    assert counters | others <= named
