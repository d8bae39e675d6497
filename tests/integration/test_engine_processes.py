"""A worker with two engine processes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import MakeBench
from tests.integration.support import wait_until
from tests.steps import Step

pytestmark = pytest.mark.integration


def test_two_processes_embed_two_shards_at_once_and_stop_together(make_bench: MakeBench) -> None:
    bench = make_bench(engine_processes=2)
    bench.hold(Step.ENGINE)
    worker = bench.start_held_worker().ready()
    worker.wait_for("engine loaded", count=2)
    bench.submit(600)
    bench.wait_held(Step.ENGINE)
    bench.hold(Step.ENGINE)
    bench.wait_held(Step.ENGINE, count=2)
    worker.process.send_signal(signal.SIGTERM)
    bench.release(Step.ENGINE)
    assert worker.wait() == 0
    done = len(worker.events("shard embedded"))
    assert done >= 2
    assert bench.in_redis() == (6 - done, 0)


def test_the_watchdog_kills_the_process_that_hangs_and_no_other(make_bench: MakeBench) -> None:
    bench = make_bench(engine_processes=2, shard_deadline_s=2, item_s=0.005)
    bench.hold(Step.ENGINE)
    worker = bench.start_held_worker().ready()
    worker.wait_for("engine loaded", count=2)
    bench.submit(1_000)
    bench.wait_held(Step.ENGINE)
    worker.wait_for("nothing done within the deadline, child killed")
    bench.wait_for_items(1_000)
    bench.assert_whole(vectors=1_000)
    killed = worker.events("nothing done within the deadline, child killed")
    held = next(bench.folder.glob("held-ENGINE-*"))
    assert [event["pid"] for event in killed] == [int(held.name.rpartition("-")[2])]
    wait_until(lambda: len(worker.events("engine loaded")) == 3, what="another process")
    assert worker.stop() == 0


def test_single_items_of_one_dataset_are_written_once_by_two_processes(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(engine_processes=2, window_items=20, item_s=0.02)
    worker = bench.start_worker()
    worker.wait_for("engine loaded", count=2)
    items = [{"id": f"text-{n % 150}", "text": f"the words of text {n % 150}"} for n in range(300)]
    bench.queue_items(items, size=5, dataset="stream")
    bench.wait_for_items(150, "stream")
    bench.assert_whole("stream", vectors=150)
    assert len({event["pid"] for event in worker.events("items embedded")}) == 2
    records = Path(bench.dataset_path("stream"), "manifest").glob("*.json")
    names = {json.loads(path.read_text())["worker"] for path in records}
    assert {name.rpartition("/")[2] for name in names} == {"0", "1"}
