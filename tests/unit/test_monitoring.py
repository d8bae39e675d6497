"""examples/monitoring and examples/kubernetes: forms, and queries of metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, get_type_hints

import promql_parser
import pytest
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from clipfleet.error_codes import ERROR_CODES
from clipfleet.tasks.metrics import counters, queues, server

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "examples" / "monitoring"
PAGE = ROOT / "docs" / "how-to" / "monitoring.md"
ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)
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


def test_the_dashboard_has_the_fields_and_values_of_grafanas_own_models() -> None:
    pytest.importorskip("grafana_foundation_sdk")  # it needs CPython 3.11
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models import units
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()  # the panels' kinds, and Prometheus
    given = dashboard()
    model = Dashboard.from_json(given)
    assert missing(given, json.loads(JSONEncoder().encode(model))) == []
    assert wrong_types(model) == []
    for panel in given["panels"]:
        assert panel["fieldConfig"]["defaults"]["unit"] in vars(units).values()

    legend, place = given["panels"][0]["options"]["legend"], given["panels"][0]["gridPos"]
    legend |= {"displayMode": "lines", "isShown": True}
    place["w"] = "wide"
    model = Dashboard.from_json(given)
    assert wrong_types(model) == [".panels.grid_pos.w", ".panels.options.legend.display_mode"]
    assert missing(given, json.loads(JSONEncoder().encode(model))) == [
        ".panels.options.legend.isShown"
    ]


def missing(given: Any, kept: Any, name: str = "") -> list[str]:
    """Return the names of what is given, and not kept as it is."""
    if isinstance(given, dict):
        pairs = [(f"{name}.{key}", one, kept.get(key)) for key, one in given.items()]
    elif isinstance(given, list):
        pairs = [(name, one, other) for one, other in zip(given, kept, strict=True)]
    else:
        return [] if given == kept else [name]
    return [found for place, one, other in pairs for found in missing(one, other, place)]


def wrong_types(model: Any, name: str = "") -> list[str]:
    """Return the names of the attributes, in lists too, that have not the types of Grafana."""
    if isinstance(model, list):
        return [found for one in model for found in wrong_types(one, name)]
    if not type(model).__module__.startswith("grafana_foundation_sdk.models"):
        return []
    wrong = []
    for attribute, kind in sorted(get_type_hints(type(model)).items()):
        value, place = getattr(model, attribute), f"{name}.{attribute}"
        try:
            TypeAdapter(kind, config=ANY_CLASS).validate_python(value)
        except ValidationError:
            wrong.append(place)
        wrong += wrong_types(value, place)
    return wrong


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
