"""examples/monitoring and examples/kubernetes: their queries name metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from clipfleet.error_codes import ERROR_CODES
from clipfleet.tasks.metrics import counters, queues, server

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "examples" / "monitoring"
PAGE = ROOT / "docs" / "how-to" / "monitoring.md"
NAME = re.compile(r"\bclipfleet[_:][a-z0-9_:]+")


def dashboard() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((MONITORING / "grafana" / "clipfleet.json").read_text())
    return parsed


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def scaled() -> list[dict[str, Any]]:
    return [*yaml.safe_load_all((ROOT / "examples/kubernetes/scaled-object.yaml").read_text())]


def queries() -> Iterator[tuple[str, str]]:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in rules():
        yield rule.get("record") or rule["alert"], rule["expr"]
    for trigger in scaled()[-1]["spec"]["triggers"]:
        yield "KEDA", trigger["metadata"]["query"]


def served() -> set[str]:
    """Return the metrics that the code makes; prometheus-client adds _total to its counters."""
    found = set()
    for module in (counters, queues, server):
        text = Path(str(module.__file__)).read_text()
        made = re.findall(r'(Counter\(\s*)?"(clipfleet_\w+)"', text)
        found |= {f"{name}_total" if counter else name for counter, name in made}
    return found


def test_every_query_is_promql_of_metrics_that_are_served() -> None:
    names = served() | {rule["record"] for rule in rules() if "record" in rule}
    assert len(names) >= 13
    for title, query in queries():
        promql_parser.parse(query)  # raises on a wrong one
        assert NAME.findall(query), title
        assert set(NAME.findall(query)) <= names, title


def test_the_page_has_a_row_for_every_metric() -> None:
    rows = re.findall(r"^\| `(clipfleet_\w+)`", PAGE.read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(served())


def test_the_queries_name_towers_stages_and_outcomes_that_there_are() -> None:
    values = [pair for _, query in queries() for pair in re.findall(r'(\w+)[=!]~?"([^"]*)"', query)]
    allowed = {
        "tower": {"img", "txt"},
        "stage": {"read", "decode", "engine"},
        "outcome": {"vector", *ERROR_CODES},
        "state": {"waiting", "held", "deferred", "used", "total"},
    }
    for label, value in values:
        assert set(value.split("|")) <= allowed[label], (label, value)


def test_panels_have_their_own_place_and_the_provisioned_source() -> None:
    [source] = yaml.safe_load((MONITORING / "grafana" / "datasource.yml").read_text())[
        "datasources"
    ]
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 10
    for panel in panels:
        assert panel["datasource"]["uid"] == panel["targets"][0]["datasource"]["uid"]
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        assert panel["title"]
        assert panel["description"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart or above


def test_the_manifest_scales_by_a_query_and_runs_the_exporter_without_rights() -> None:
    deployment, service, scaled_object = scaled()
    spec = deployment["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert container["args"] == ["metrics", "--port", str(service["spec"]["ports"][0]["port"])]
    assert container["securityContext"]["runAsNonRoot"] is True
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert scaled_object["apiVersion"] == "keda.sh/v1alpha1"
    # KEDA's schema: the metadata of a trigger are strings, the numbers of the object integers.
    [trigger] = scaled_object["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert {"serverAddress", "query", "threshold"} <= set(trigger["metadata"])
    counts = {"minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod"}
    assert all(isinstance(scaled_object["spec"][name], int) for name in counts)
