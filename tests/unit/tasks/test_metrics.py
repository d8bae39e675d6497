"""The items of a queue's messages, and a worker's port among several."""

from __future__ import annotations

import base64
import errno
import json
import sys
from typing import Any

import pytest
from prometheus_client import REGISTRY

from clipfleet.errors import DependencyError, SettingsError
from clipfleet.settings import load_settings
from clipfleet.tasks.metrics import counters
from clipfleet.tasks.metrics.queues import items_of
from clipfleet.tasks.tracing import check_tracing
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import FakeEngine, fake_card
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


class GpuEngine(FakeEngine):
    """An engine on a GPU of 80 GB, of which 30 are free."""

    def memory_info(self) -> tuple[int, int]:
        return 30, 80


def test_the_memory_of_a_gpu_is_that_of_its_engine() -> None:
    with Embedder(GpuEngine(fake_card("txt")), load_settings()) as embedder:
        counters.start_counting(embedder)
    found = {
        state: REGISTRY.get_sample_value(
            "clipfleet_gpu_memory_bytes", {"tower": "txt", "state": state}
        )
        for state in ("used", "total")
    }
    assert found == {"used": 50, "total": 80}


def test_a_full_temporary_folder_costs_metrics_and_no_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(counters._ENGINE_ITEMS, "labels", full)
    with Embedder(FakeEngine(fake_card("txt")), load_settings()) as embedder:
        counters.count(embedder)
    [line] = caplog.records
    assert line.message == "metrics not counted"
    assert "No space left" in str(vars(line)["reason"])
