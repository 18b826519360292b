"""docs/running.md names every setting and every metric, as they are in the code."""

from __future__ import annotations

import ast
import re

import msgspec

from gateway.core.admission import Admission, AdmissionLimits
from gateway.settings import GatewaySettings
from gateway.telemetry.metrics import Metrics
from tests.arch.checkout import ROOT, modules, tree

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


def test_every_metric_of_rollouts_stands_on_the_page() -> None:
    told = [
        node
        for path in modules("gateway")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"counter", "gauge"}
    ]
    names = {
        node.args[0].value + ("_total" if node.func.attr == "counter" else "")
        for node in told
        if isinstance(node.func, ast.Attribute)
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }
    assert {"headrace_rollout_store_up", "headrace_shadow_copies_total"} <= names
    missing = {name for name in names if f"`{name}`" not in PAGE}
    assert not missing
