"""The dashboard and the alerts of docs/deploy name what the service tells."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Set

from ruamel.yaml import YAML

from omniforge_chat.observe.families import FAMILIES

from ..support.docs import DOCS, ROOT

DEPLOY = DOCS / "deploy"
LABELS = {label for family in FAMILIES.values() for label in family.labels}
OF_PROMETHEUS = {"job", "instance", "le", "alertname"}


def known() -> Set[str]:
    """The names of samples."""
    names: Set[str] = set()
    for name, family in FAMILIES.items():
        endings = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        names.update(name + ending for ending in endings)
    return names


def unknown(expression: str) -> Set[str]:
    """The names of metrics in it that the service does not tell, and labels that none has."""
    names = set(re.findall(r"\b(?:omniforge|process|gen_ai_client)_\w+", expression))
    groups = re.findall(r"\bby \(([^)]*)\)", expression)
    labels = {label.strip() for group in groups for label in group.split(",")}
    labels |= set(re.findall(r"(\w+)[!=]~?\"", expression))
    return (names - known()) | (labels - LABELS - OF_PROMETHEUS)


def alerts() -> List[Dict[str, Any]]:
    [group] = YAML(typ="safe").load((DEPLOY / "alerts.yaml").read_text("utf-8"))["groups"]
    rules: List[Dict[str, Any]] = group["rules"]
    return rules


def test_each_panel_shows_what_there_is() -> None:
    """A panel without data looks like a service at rest."""
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text("utf-8"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert not unknown(target["expr"]), panel["title"]
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= LABELS | OF_PROMETHEUS
    for variable in dashboard["templating"]["list"]:
        assert not unknown(str(variable["query"]))


def test_each_alert_is_about_what_there_is() -> None:
    """One with a wrong name never comes."""
    for alert in alerts():
        assert not unknown(alert["expr"]), alert["alert"]
        assert set(alert["annotations"]) == {"summary", "description"}


def test_the_documentation_has_each_alert() -> None:
    """Whoever is woken by one looks there."""
    page = (DOCS / "deployment.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", page, re.MULTILINE)
    assert {alert["alert"] for alert in alerts()} <= set(rows)


def test_each_alert_is_tried() -> None:
    """tests/compat runs them in Prometheus' own tool."""
    tried = (ROOT / "tests" / "compat" / "alerts.yaml").read_text("utf-8")
    expected = re.findall(r"labels: '{alertname=\"(\w+)\"}'", tried)
    assert sorted(expected) == sorted(alert["alert"] for alert in alerts())
