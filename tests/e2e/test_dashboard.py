"""The Grafana dashboard and the alert rules speak of metrics and labels that a real server has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from featurecache.status import Status
from gateway.core.admission import Admission, AdmissionLimits
from gateway.errors import ErrorCode
from gateway.telemetry.metrics import Metrics
from tests.support import feature_rows
from tests.support.feature_pushes import RestPusher, counted, profile
from tests.support.feature_rows import BASKET_WIDTH, Rows, amounts, features_toml, users, write_seen
from tests.support.models import identity, write_model
from tests.support.protocol_callers import Ask, CallError, make_caller
from tests.support.raw_http import RawHttp, ask_once, floats_json, post_infer, request
from tests.support.redis_servers import ValkeyServer
from tests.support.server_process import CHECKOUT, ServerProcess
from tests.support.waiting import eventually

GRAFANA = CHECKOUT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "headrace.json").read_text("utf-8"))
RULES = yaml.safe_load((GRAFANA / "alerts.yml").read_text("utf-8"))["groups"]
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
OF_PROMETHEUS = {"instance", "job", "le"}
SCRAPE_HEALTH = {"up": {"instance", "job"}}

_QUOTED = re.compile(r'"[^"]*"')
_SELECTOR = re.compile(r"\b([a-zA-Z_]\w*)\s*(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
_LABEL_VALUES = re.compile(r"label_values\((.*), (\w+)\)")
_NAMED_VALUES = re.compile(r"(\w+)\{([^}]*)\}")
_VALUE = re.compile(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"')
_WORDS = {"by", "sum", "rate", "min", "max", "count", "or", "vector", "increase", "without"}
_WORDS |= {"histogram_quantile", "and", "unless", "on", "ignoring", "group_left"}


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of everything that Prometheus will be asked."""
    for panel in PANELS:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for rule in rules():
        yield f"rule {rule['alert']}", rule["expr"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES for rule in group["rules"]]


def series_of(expression: str) -> list[tuple[str, set[str]]]:
    """(metric, labels that its selector names) for every selector of an expression."""
    bare = _QUOTED.sub('""', expression)
    bare = _GROUPING.sub("", re.sub(r"\[[^\]]*\]", "", bare))
    return [
        (name, set(_LABEL.findall(selector)))
        for name, selector in _SELECTOR.findall(bare)
        if name not in _WORDS
    ]


def grouped_by(expression: str) -> set[str]:
    return {
        label.strip()
        for group in _GROUPING.findall(expression)
        for label in group.split(",")
        if label.strip()
    }


def named_values(label: str) -> Iterator[tuple[str, str]]:
    """(metric, value) wherever a selector names values of ``label``."""
    for _, expression in expressions():
        for metric, selector in _NAMED_VALUES.findall(expression):
            for name, values in _VALUE.findall(selector):
                if name == label:
                    yield from ((metric, value) for value in values.split("|"))


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> list[Metric]:
    """What a server with two workers and features shows after a little of everything."""
    folder: Path = tmp_path_factory.mktemp("dashboard")
    root = folder / "models"
    for version in (1, 2):
        write_model(root, "identity", identity(), version=version)
    write_seen(root, "basket", BASKET_WIDTH, features_toml("basket"))
    guarded = features_toml("basket", more="max_defaulted_fraction = 0.25")
    write_seen(root, "guarded", BASKET_WIDTH, guarded)
    manifest = feature_rows.apply(folder / "features")
    settings = {
        "server.workers": 2,
        "features.manifest": folder / "features",
        "features.push": True,
        "rollout.enabled": True,
        "rollout.state_dir": folder / "rollouts",
    }
    with ValkeyServer() as store:
        with store.client() as client:
            Rows(client, manifest).put_users([1, 2])
        with ServerProcess(root, {**settings, "store.redis_url": store.url}) as server:
            with RawHttp(server.http) as connection:
                connection.send(post_infer("identity", floats_json()))
                assert connection.receive().status == 200
            use_features(server)
            use_rollouts(server)
            return list(text_string_to_metric_families(server.get_admin("/metrics")))


def use_features(server: ServerProcess) -> None:
    """A row that is there and one that is not, a request refused for that, and a push."""
    caller = make_caller("grpc", server)
    try:
        caller.ask(Ask("basket", [users([1, 99]), amounts([0, 1])]))
        with pytest.raises(CallError) as refused:
            caller.ask(Ask("guarded", [users([99]), amounts([0])]))
        assert refused.value.status == "FAILED_PRECONDITION", refused.value
    finally:
        caller.close()
    said = RestPusher(server).push("profile", [profile("u3", 3)])
    assert said.counts == counted(created=1), said


def use_rollouts(server: ServerProcess) -> None:
    """A plan with copies, and requests with and without the key that it wants."""
    plan = {
        "champion": "2",
        "candidate": "1",
        "sticky": {"from": "header:x-user", "salt": "dashboard"},
        "steps": [{"percent": 50.0}],
        "shadows": [{"version": "1", "percent": 100.0, "salt": "copies"}],
    }
    headers = [("content-type", "application/json"), ("x-headrace-reason", "a test")]
    started = ask_once(
        server.admin,
        request("PUT", "/v2/rollouts/identity?start=true", headers, json.dumps(plan).encode()),
    )
    assert started.status == 201, started
    body = floats_json()

    def is_compared() -> bool:
        for who in ([("x-user", "u1")], []):
            assert ask_once(server.http, post_infer("identity", body, who)).status == 200
        return "headrace_shadow_differing_share{" in server.get_admin("/metrics")

    eventually("a copy was compared", is_compared, within_s=30.0)
    too_late = floats_json(parameters={"timeout": 1})  # µs; what fails is not copied
    assert ask_once(server.http, post_infer("identity", too_late)).status in {503, 504}


def values_of(families: list[Metric], metric: str, label: str) -> set[str]:
    """The values of a label that the server shows."""
    samples = [sample for family in families for sample in family.samples]
    return {sample.labels[label] for sample in samples if sample.name == metric}


@pytest.fixture(scope="module")
def known(families: list[Metric]) -> dict[str, set[str]]:
    """The labels of every metric, by the names of its samples."""
    found: dict[str, set[str]] = {}
    for family in families:
        plain = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        for ending in plain.get(family.type, ("",)):
            found[family.name + ending] = set()
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    for declared in Metrics(Admission(AdmissionLimits())).collect():  # what has counted nothing yet
        if declared.type == "counter":
            found[declared.name + "_total"] |= set(getattr(declared, "_labelnames", ()))
    return found | SCRAPE_HEALTH


def test_every_metric_and_label_is_there(known: dict[str, set[str]]) -> None:
    wrong = []
    for where, expression in expressions():
        series = series_of(expression)
        assert series, f"{where}: no metric in {expression}"
        for name, labels in series:
            if name not in known:
                wrong.append(f"{where}: there is no metric {name}")
            elif missing := labels - known[name] - OF_PROMETHEUS:
                wrong.append(f"{where}: {name} has no label {sorted(missing)}")
        everything = set().union(*(known.get(name, set()) for name, _ in series))
        if missing := grouped_by(expression) - everything - OF_PROMETHEUS:
            wrong.append(f"{where}: nothing to group by {sorted(missing)}")
    assert not wrong, wrong


def test_variables_ask_for_labels_that_are_there(known: dict[str, set[str]]) -> None:
    asked = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    assert {"instance", "model", "version"} <= {one["name"] for one in asked}
    for variable in asked:
        match = _LABEL_VALUES.fullmatch(variable["query"]["query"])
        assert match is not None, variable
        [(name, labels)] = series_of(match[1])
        assert {*labels, match[2]} <= known[name] | OF_PROMETHEUS, variable


def test_variables_are_defined_where_they_are_used() -> None:
    names = {one["name"] for one in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(PANELS)))
    assert used <= names
    assert {"datasource", "instance", "model", "version"} <= used
    assert all(
        panel["datasource"]["uid"] == "${datasource}" for panel in PANELS if panel["type"] != "row"
    )


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: dict[tuple[int, int], int] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["id"])
                assert other == panel["id"], f"{panel['title']} lies on panel {other}"


def test_every_panel_says_what_it_shows() -> None:
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["targets"], panel["title"]


def test_outcomes_are_those_that_there_can_be(families: list[Metric]) -> None:
    of_calls = {"ok", "taken", "over_limit"} | {code.value for code in ErrorCode}
    named: dict[str, set[str]] = {}
    for metric, outcome in named_values("outcome"):
        named.setdefault(metric, set()).add(outcome)
    for metric in ("headrace_feature_lookup_rows_total", "headrace_feature_reads_total"):
        shown = values_of(families, metric, "outcome")  # all of them, from the first moment
        assert named.pop(metric) <= shown, metric
    assert named
    for metric, outcomes in named.items():
        assert outcomes <= of_calls, metric


def test_statuses_are_those_that_rows_can_have(families: list[Metric]) -> None:
    statuses = {one.name.lower() for one in Status}
    assert values_of(families, "headrace_feature_rows_total", "status") == {"present", "missing"}
    named = {status for _, status in named_values("status")}
    assert {"missing", "stale", "defaulted", "error"} <= named <= statuses


def test_everything_that_features_tell_is_watched(known: dict[str, set[str]]) -> None:
    asked = {name for where, one in expressions() if "panel" in where for name, _ in series_of(one)}
    assert {name for name in known if name.startswith("headrace_feature_")} <= asked


def test_everything_that_rollouts_tell_is_watched(known: dict[str, set[str]]) -> None:
    asked = {name for where, one in expressions() if "panel" in where for name, _ in series_of(one)}
    told = {name for name in known if name.startswith(("headrace_rollout_", "headrace_shadow_"))}
    assert len(told) > 10
    assert told <= asked


def test_ways_to_an_arm_are_those_that_there_are(families: list[Metric]) -> None:
    named = {value for _, value in named_values("assigned_by")}
    assert named == {"split", "override", "not_warm"}
    assert values_of(families, "headrace_rollout_requests_total", "assigned_by") <= named


def test_every_rule_is_whole() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}, rule
        assert rule["annotations"]["summary"], rule
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        left = grouped_by(rule["expr"]) or {"instance", "job", "model", "version"}
        assert named <= left, rule


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('sum by (le) (rate(a_bucket{x=~"b|c", le!="d"}[5m]))', [("a_bucket", {"x", "le"})]),
        ("a_total > 0 or vector(0)", [("a_total", set())]),
        ('sum(a{x="y{z"}) / sum without (q) (b)', [("a", {"x"}), ("b", set())]),
    ],
)
def test_the_reader_of_expressions(expression: str, expected: list[tuple[str, set[str]]]) -> None:
    assert series_of(expression) == expected
