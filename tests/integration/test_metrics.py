"""Metrics of a worker whose engine process ends, and of the queues; traces at a collector."""

from __future__ import annotations

import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import _settings
from tests.integration.support import Bench, wait_until
from clipfleet.workers.engines.fake import write_fake_engine
from tests.redis_server import RedisServer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def metrics_at(port: int) -> dict[str, float]:
    """Return the samples that a server has, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            " ".join([sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]): (
                sample.value
            )
            for family in families
            for sample in family.samples
        }


def test_the_counters_of_engine_processes_add_up_after_the_end_of_one(make_bench) -> None:
    port = free_port()
    bench = make_bench(metrics_port=port)
    worker = bench.start_worker().ready()
    bench.submit(250, "one")
    bench.wait_for_items(250, "one")
    first = metrics_at(port)
    print(first)
    worker.signal_child(signal.SIGKILL)
    worker.wait_for("engine loaded", count=2)
    bench.submit(130, "two")
    bench.queue_items([{"id": "a", "uri": "x"}])
    bench.wait_for_items(130, "two")
    print(metrics_at(port))
    print(worker.log_text())
    assert 0
