"""The alerts and the dashboard speak of metrics and labels that there are, and of runbooks that somebody wrote."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from projectiond.http.families import FAMILIES
from tests.support.http import Site
from tests.support.pages import anchors_of

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "monitoring" / "alerts.yml"
ALERT_TESTS = ROOT / "monitoring" / "alerts_test.yml"
DASHBOARD = ROOT / "monitoring" / "grafana.json"
PROMTOOL = shutil.which("promtool") or ""

needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed (Debian's package prometheus)")

# What Prometheus adds by itself.
FOREIGN_LABELS = {"job", "instance", "namespace", "le"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def labels_by_metric() -> dict[str, set[str]]:
    """Return the labels of everything that can be asked for: of a histogram its parts."""
    found: dict[str, set[str]] = {}
    for family in FAMILIES:
        suffixes = ("_bucket", "_sum", "_count") if family.type == "histogram" else ("",)
        found |= {family.name + suffix: set(family.labels) | FOREIGN_LABELS for suffix in suffixes}
    return found


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_an_expression_names_metrics_and_labels_that_there_are(title: str, expression: str) -> None:
    known = labels_by_metric()
    used = re.findall(r"\b(projectiond_\w+)(?:\{([^}]*)\})?", expression)
    assert used or expression.strip().startswith(("up{", "sum(up{", "absent(up{")), title
    for metric, matchers in used:
        assert metric in known
        assert set(re.findall(r"(\w+)\s*[=!]~?\s*\"", matchers)) <= known[metric]
    asked = {label for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(", ")}
    assert asked <= set.union(FOREIGN_LABELS, *(known[metric] for metric, _ in used))


def test_values_of_labels_that_are_asked_for_are_given() -> None:
    asked = {pair for _, text in expressions() for pair in re.findall(r'(cause|state|status)="(\w+)"', text)}
    for label, value in asked - {("status", "paused")}:
        meanings = [family.meaning for family in FAMILIES if label in family.labels]
        assert any(re.search(rf"\b{value}\b", meaning) for meaning in meanings), (label, value)


def test_every_alert_has_a_severity_a_sentence_and_a_runbook() -> None:
    anchors = anchors_of(ROOT / "docs" / "operations.md")
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"].endswith(".")
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/operations.md"
        assert anchor in anchors, rule["alert"]


def test_every_alert_is_seen_to_fire_and_to_be_silent() -> None:
    cases = [case for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


@needs_promtool
def test_prometheus_takes_the_alerts_and_raises_them_as_it_should() -> None:
    for verb, file in (("check", ALERTS), ("test", ALERT_TESTS)):
        done = subprocess.run([PROMTOOL, verb, "rules", file], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_has_nothing_to_say_against_the_metrics() -> None:
    text = Site().ask("/metrics").text
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_promtool
def test_prometheus_understands_what_the_dashboard_asks(tmp_path: Path) -> None:
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    recorded = [
        {"record": f"panel:{index}", "expr": expression.replace("$__rate_interval", "5m")}
        for index, expression in enumerate(asked)
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    done = subprocess.run([PROMTOOL, "check", "rules", file], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    everything = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = [
        (x, y)
        for panel in everything
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
