"""What operators watch: a worker's metrics and traces, and the metrics of the queues."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from PIL import Image
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from clipfleet.items import Item
from clipfleet.settings import load_settings
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.broker.redis_client import connect
from clipfleet.tasks.metrics.queues import QueueCollector
from clipfleet.tasks.metrics.server import serve_metrics
from clipfleet.tasks.submit.submit import submit
from clipfleet.workers.engines.fake import write_fake_engine
from tests.integration.support import PATIENCE_S, Bench, forget_settings, run_command, wait_until
from tests.redis_server import RedisServer, free_port

MONITORING = Path(__file__).parents[2] / "examples" / "monitoring"
TRACING = Path(sys.prefix, "share", "tracing")  # as in the Makefile
SHARD = 20  # items


class Collector:
    """A stand-in for OpenTelemetry's collector: it keeps the spans that come over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
                    ExportTraceServiceRequest,
                )

                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    spans.extend(s for scope in resource.scope_spans for s in scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Watched(Bench):
    """A bench with pictures, whose workers serve metrics and send traces."""

    collector: Collector

    def submit_pictures(self, count: int, name: str) -> None:
        """Submit so many pictures, the first of which is damaged."""
        picture = self.folder / "picture.png"
        Image.new("RGB", (40, 30), "red").save(picture)
        damaged = self.folder / "damaged.png"
        damaged.write_bytes(picture.read_bytes()[:60])
        items = [Item(id=f"{n}", uri=str(picture if n else damaged)) for n in range(count)]
        submit(
            ListSource(items),
            self.dataset_path(name),
            str(self.settings.model),
            settings=self.settings,
        )

    def metrics(self) -> dict[str, float]:
        return metrics_at(self.settings.metrics_port)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    server, collector = RedisServer(folder / "redis"), Collector()
    with pytest.MonkeyPatch.context() as patch:
        forget_settings(patch)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # ms
        patch.syspath_prepend(TRACING)
        paths = (str(TRACING), os.environ.get("PYTHONPATH"))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        server.start()
        (folder / "output").mkdir()
        settings = load_settings(
            redis_url=server.url,
            tower="img",
            model=str(write_fake_engine(folder, "img")),
            output=str(folder / "output"),
            shard_size=SHARD,
            decoders=1,
            metrics_port=free_port(),
            trace_url=collector.url if TRACING.exists() else None,
        )
        bench = Watched(settings, folder)
        bench.collector = collector
        yield bench
        bench.close()
        server.stop()
        collector.close()


def metrics_at(port: int) -> dict[str, float]:
    """Return the samples that a server has, by name and values of the sorted labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            " ".join([sample.name, *(v for _, v in sorted(sample.labels.items()))]): sample.value
            for family in families
            for sample in family.samples
        }


def at_work(watched: Watched) -> Watched:
    """Have a worker that serves metrics."""
    if not watched.workers:
        port = str(watched.settings.metrics_port)
        watched.start_worker("--metrics-port", port, metrics_port=0).ready()
    return watched


def test_counters_add_up_over_the_end_of_an_engine_process(watched: Watched) -> None:
    [worker] = at_work(watched).workers
    watched.submit_pictures(50, "first")
    watched.wait_for_items(50, "first")
    before = watched.metrics()
    assert before["clipfleet_items_total vector img"] == 49
    assert before["clipfleet_items_total decode_failed img"] == 1
    assert before["clipfleet_engine_items_total img"] == 49
    assert before["clipfleet_engine_room_total img"] == 3 * 32  # each shard is one call
    assert before["clipfleet_engine_processes img"] == 1
    assert before["clipfleet_decoders img"] == 1
    worker.signal_child(signal.SIGKILL)
    worker.wait_for("engine loaded", count=2)
    watched.submit_pictures(10, "second")
    watched.wait_for_items(10, "second")
    after = watched.metrics()
    assert after["clipfleet_items_total vector img"] == 58
    assert after["clipfleet_items_total decode_failed img"] == 2
    for stage in ("plan", "read", "decode", "wait", "engine", "write"):
        name = f"clipfleet_stage_seconds_total {stage} img"
        assert 0 < before[name] < after[name]


@pytest.mark.skipif(not TRACING.exists(), reason="`make install` installs OpenTelemetry")
def test_a_shard_is_a_span_below_its_submit_and_has_a_span_for_each_stage(
    watched: Watched,
) -> None:
    collector = at_work(watched).collector
    watched.submit_pictures(5, "traced")
    watched.wait_for_items(5, "traced")
    root = watched.dataset_path("traced")

    def found(name: str) -> list[Any]:
        return [span for span in collector.named(name) if attributes(span).get("dataset") == root]

    wait_until(lambda: found("shard") and found("submit"), what="the spans come")
    [submitted], [shard] = found("submit"), found("shard")
    assert shard.trace_id == submitted.trace_id
    assert shard.parent_span_id == submitted.span_id
    told = attributes(shard)
    assert told["shard"] == "00001-0000000"
    assert (told["items.vector"], told["items.decode_failed"]) == ("4", "1")
    stages = [span for span in collector.spans if span.parent_span_id == shard.span_id]
    assert {span.name for span in stages} == {"plan", "read", "decode", "wait", "engine", "write"}
    for span in stages:
        assert shard.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= shard.end_time_unix_nano


def attributes(span: Any) -> dict[str, str]:
    """Return the attributes of a span, as text."""
    return {
        pair.key.removeprefix("clipfleet."): str(pair.value.string_value or pair.value.int_value)
        for pair in span.attributes
    }


def queries() -> dict[str, str]:
    """Return the dashboard's queries, by the title of their panel."""
    dashboard = json.loads((MONITORING / "grafana" / "clipfleet.json").read_text())
    return {panel["title"]: panel["targets"][0]["expr"] for panel in dashboard["panels"]}


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on this machine")
def test_prometheus_answers_the_query_of_every_panel(watched: Watched, tmp_path: Path) -> None:
    at_work(watched)
    with queue_metrics(watched) as queue_port, prometheus(watched, queue_port, tmp_path) as ask:
        watched.submit_pictures(40, "scraped")
        watched.wait_for_items(40, "scraped")
        for title, query in queries().items():
            if title != "GPU memory":  # there is no GPU
                wait_until(partial(ask, query), what=f"an answer to {title}: {query}")
        assert ask(queries()["GPU memory"]) == []
        [left] = [one for one in ask("clipfleet:work_left:seconds") if one[0]["tower"] == "img"]
        assert float(left[1]) == 0


@contextmanager
def prometheus(
    watched: Watched, queue_port: int, folder: Path
) -> Iterator[Callable[[str], list[tuple[dict[str, str], str]]]]:
    """Run a Prometheus with the rules of the example; yield what answers a query."""
    scraped = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        for name, port in (("workers", watched.settings.metrics_port), ("queues", queue_port))
    ]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(MONITORING / "rules.yml")],
        "scrape_configs": scraped,
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = ["prometheus", f"--config.file={folder}/prometheus.yml"]
    command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(query: str) -> list[tuple[dict[str, str], str]]:
        words = urllib.parse.urlencode({"query": query})
        url = f"http://127.0.0.1:{port}/api/v1/query?{words}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            result = json.load(answer)["data"]["result"]
        return [(one["metric"], one["value"][1]) for one in result]

    try:
        wait_until(lambda: is_ready(port), what="Prometheus is ready")
        yield ask
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def queue_metrics(bench: Bench) -> Iterator[int]:
    """Serve the metrics of the queues from this process; yield the port."""
    settings = bench.settings.model_copy(update={"metrics_port": free_port()})
    registry = CollectorRegistry()
    registry.register(QueueCollector(bench.client, settings))
    with serve_metrics(registry, settings):
        yield settings.metrics_port


def test_the_messages_and_items_of_a_queue_are_counted_without_a_worker(bench: Bench) -> None:
    bench.submit(250)  # three shards
    bench.queue_items([{"id": f"{n}", "text": "a"} for n in range(10)], size=10)
    other: Any = bench.client.lindex(bench.queue, 0)
    bench.client.lpush(f"{bench.queue}\x06\x163", other)
    with queue_metrics(bench) as port:
        found = metrics_at(port)
        assert found["clipfleet_redis_up"] == 1
        assert found["clipfleet_queue_messages waiting txt"] == 5
        assert found["clipfleet_queue_messages held txt"] == 0
        assert found["clipfleet_queue_messages waiting img"] == 0
        assert found["clipfleet_queue_items txt"] == 250 + 2 * 10
        assert found["clipfleet_queue_items img"] == 0
        assert found["clipfleet_refused_messages"] == 0


def test_without_redis_the_metrics_say_so_and_name_no_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_settings(monkeypatch)
    settings = load_settings(redis_url=f"redis://127.0.0.1:{free_port()}/0")
    with connect(settings.redis_url) as client:
        families = [*QueueCollector(client, settings).collect()]
    [(name, value)] = [(s.name, s.value) for family in families for s in family.samples]
    assert (name, value) == ("clipfleet_redis_up", 0)


def test_a_port_that_is_taken_is_refused_with_its_number(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = run_command("metrics", "--port", str(port), cwd=tmp_path)
    assert run.returncode == 2
    assert f"metrics cannot be served at 127.0.0.1:{port}: Address already in use" in run.stderr
