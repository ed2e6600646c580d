# Law of this file: what monitoring/ asks for is kept under that name, with those labels, and every
# alert leads to a page that says what to do.

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from redirects.health import State
from server.outcome import Outcome
from tests.docs.test_docs import ROOT, anchors, figures

MONITORING: Final = ROOT / "monitoring"
RULES: Final = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
DASHBOARD: Final = json.loads((MONITORING / "grafana-dashboard.json").read_text())
TESTS: Final = sorted(Path(__file__).parent.glob("alerts.*test.yaml"))

# What Prometheus itself puts on every series, and what a histogram has.
_ADDED: Final = frozenset({"instance", "job", "le"})
_SELECTOR: Final = re.compile(r"\b(offramp_[a-z_]+)(?:\{([^}]*)\})?")
_MATCHER: Final = re.compile(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"')
_GROUPED: Final = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_SHOWN: Final = re.compile(r"\$labels\.(\w+)|\{\{(\w+)\}\}")
_VALUES: Final = {
    "offramp_responses_total": {"outcome": {outcome.value for outcome in Outcome}},
    "offramp_target_state": {"state": {state.value for state in State}},
    "offramp_session_mirror_state": {"state": {state.value for state in State}},
    "offramp_bytes_total": {"path": {"inline", "redirected"}},
    "offramp_index_results": {"outcome": {"failed"}},
    "offramp_upstream_requests_total": {"outcome": {"yes", "no", "down"}},
}


def kept() -> dict[str, frozenset[str]]:
    """The names of all samples, with the labels of each."""
    return {
        sample.name: frozenset(sample.labels)
        for metric in figures()._registry.collect()
        for sample in metric.samples
    }


@dataclass(frozen=True)
class Asked:
    """An expression, and what is said of its result.

    Attributes:
        where: the alert or panel.
        expression: of PromQL.
        text: in which its labels are named.
    """

    where: str
    expression: str
    text: str = ""

    def __str__(self) -> str:
        return self.where


def rules(kind: str) -> Iterator[dict[str, Any]]:
    """The rules that are an ``alert``, or that ``record``."""
    for group in RULES["groups"]:
        yield from (rule for rule in group["rules"] if kind in rule)


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


ALERTS: Final = list(rules("alert"))
ASKED: Final = [
    *(Asked(rule["record"], rule["expr"]) for rule in rules("record")),
    *(Asked(rule["alert"], rule["expr"], str(rule["annotations"])) for rule in ALERTS),
    *(
        Asked(panel["title"], target["expr"], target["legendFormat"])
        for panel in panels()
        for target in panel["targets"]
    ),
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_what_is_asked_for_is_kept(asked: Asked) -> None:
    """Each metric, each of its labels, and each value of those that have few."""
    known, wrong = kept(), []
    labels = set(_ADDED)
    for name, matchers in _SELECTOR.findall(asked.expression):
        if name not in known:
            wrong.append(name)
            continue
        labels |= known[name]
        for label, how, value in _MATCHER.findall(matchers):
            if label not in known[name] | _ADDED:
                wrong.append(f"{name}{{{label}}}")
            values = _VALUES.get(name, {}).get(label)
            if values is not None and how in {"=", "!="} and value and value not in values:
                wrong.append(f"{name}{{{label}={value}}}")
    for group in _GROUPED.findall(asked.expression):
        wrong += [label for label in re.findall(r"\w+", group) if label not in labels]
    shown = {one or other for one, other in _SHOWN.findall(asked.text)}
    wrong += sorted(shown - labels)
    assert wrong == []


def test_recorded_names_are_used() -> None:
    """A rule that records is asked for by its name, and every such name is recorded."""
    recorded = {rule["record"] for rule in rules("record")}
    used = {
        name for asked in ASKED for name in re.findall(r"\bofframp:[a-z0-9_:]+", asked.expression)
    }
    assert used == recorded


def test_the_dashboard_shows_everything() -> None:
    """No figure is kept that nobody sees."""
    shown = {
        re.sub(r"_bucket$", "", name)
        for panel in panels()
        for target in panel["targets"]
        for name, _ in _SELECTOR.findall(target["expr"])
    }
    every = {re.sub(r"_(bucket|sum|count)$", "", name) for name in kept()}
    assert every <= shown


def test_the_dashboard_is_one() -> None:
    """Panels have ids and places of their own, a title, a description and a data source."""
    everything = DASHBOARD["panels"]
    assert {"title", "uid", "schemaVersion", "time", "templating"} <= DASHBOARD.keys()
    assert "id" not in DASHBOARD  # Grafana gives one as it imports
    ids = [panel["id"] for panel in everything]
    assert len(set(ids)) == len(ids)
    taken: dict[tuple[int, int], int] = {}
    for panel in everything:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"], panel["title"]
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) >= 1


def test_variables_of_the_dashboard() -> None:
    """Each variable that an expression names is defined, or Grafana's own."""
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used - {"__range", "__rate_interval", "__all"} == defined
    for variable in DASHBOARD["templating"]["list"]:
        for name, label in re.findall(r"label_values\((\w+), (\w+)\)", str(variable["query"])):
            assert label in kept()[name] | _ADDED


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """It has a severity, a summary, a description, and a runbook that exists."""
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert all(rule["annotations"].values())
    page, anchor = rule["annotations"]["runbook_url"].split("#")
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(ROOT / page)


def test_every_runbook_is_of_an_alert() -> None:
    """None is left of an alert that is gone."""
    text = (ROOT / "docs/monitoring.md").read_text()
    written = re.findall(r"^### (Offramp\w+)$", text, re.MULTILINE)
    assert sorted(written) == sorted(rule["alert"] for rule in ALERTS)


# --- by Prometheus' own program ------------------------------------------------------------

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)


@needs_promtool
def test_alerts_do_as_they_say() -> None:
    """Each fires when it should, and not when it should not."""
    subprocess.run(("promtool", "test", "rules", *TESTS), check=True)
    text = "".join(file.read_text() for file in TESTS)
    fired = set(re.findall(r'alertname="(\w+)"', text))
    assert fired == {rule["alert"] for rule in ALERTS}


@needs_promtool
def test_expressions_of_the_dashboard(tmp_path: Path) -> None:
    """Prometheus can read each of them."""
    written = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(
            re.sub(r"\$__(range|rate_interval)", "5m", target["expr"])
            for panel in panels()
            for target in panel["targets"]
        )
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": written}]}))
    subprocess.run(("promtool", "check", "rules", file), check=True)
