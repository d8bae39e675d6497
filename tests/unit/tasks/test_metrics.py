"""The items of a queue's messages, and a worker's port among several."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import pytest

from clipfleet.errors import DependencyError, SettingsError
from clipfleet.settings import load_settings
from clipfleet.tasks.metrics.queues import items_of
from clipfleet.tasks.tracing import check_tracing
from clipfleet.workers.environment import environment_of


def message(body: Any) -> dict[str, str]:
    return {"body": base64.b64encode(json.dumps(body).encode()).decode()}


@pytest.mark.parametrize(
    ("body", "items"),
    [
        ([[], {"dataset": "d", "shard": {"job": "00001", "index": 0, "size": 4096}}, {}], 4096),
        ([[[{"id": "a"}, {"id": "b"}]], {}, {}], 2),
        ([[], {"shard": {"size": "many"}}, {}], 1),
        ([[], {"shard": {"size": -5}}, {}], 1),
        ([[], {}, {}], 1),
        ({}, 1),
        (None, 1),
    ],
)
def test_the_items_of_a_message_are_its_shards_or_its_own(body: Any, items: int) -> None:
    assert items_of(message(body)) == items


@pytest.mark.parametrize("raw", [{}, [], None, {"body": "é"}, {"body": "AAAA"}, {"body": 5}])
def test_what_is_no_message_counts_as_one_item(raw: Any) -> None:
    assert items_of(raw) == 1


def test_each_of_several_workers_has_its_own_port() -> None:
    settings = load_settings(metrics_port=9400)
    ports = [environment_of(settings, number=n)["CLIPFLEET_METRICS_PORT"] for n in range(3)]
    assert ports == ["9400", "9401", "9402"]
    off = [environment_of(load_settings(), number=n)["CLIPFLEET_METRICS_PORT"] for n in (0, 1)]
    assert off == ["0", "0"]


def test_a_collector_without_a_scheme_is_refused() -> None:
    with pytest.raises(SettingsError, match="'collector:4318' is no http:// or https:// URL"):
        load_settings(trace_url="collector:4318")


def test_traces_without_opentelemetry_are_refused_with_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, exporter, None)
    check_tracing(load_settings())
    with pytest.raises(DependencyError, match=r"pip install '\.\[tracing\]'"):
        check_tracing(load_settings(trace_url="http://127.0.0.1:1/v1/traces"))
