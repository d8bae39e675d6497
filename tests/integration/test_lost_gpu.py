"""A worker whose GPU fails: it hands back what it has, ends with exit code 1, blames no item."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipfleet.tasks.status.progress import read_progress
from clipfleet.workers.engines.fake import write_fake_engine
from tests.integration.conftest import MakeBench
from tests.integration.support import Bench, WorkerProcess, texts, wait_until

pytestmark = pytest.mark.integration

VISIBILITY_TIMEOUT_S = 600  # what came back was handed back
ITEMS = "items-txt"


def start_loser(bench: Bench, *, lost_after_items: int) -> WorkerProcess:
    """Start a worker of the same model whose GPU fails after so many items."""
    folder = Path(bench.folder, f"loser-{lost_after_items}-{len(bench.workers)}")
    folder.mkdir()
    model = write_fake_engine(folder, "txt", item_s=0.006, lost_after_items=lost_after_items)
    return bench.start_worker(model=str(model))


def test_one_of_two_workers_loses_its_gpu_and_every_item_ends_once(make_bench: MakeBench) -> None:
    bench = make_bench(item_s=0.006, visibility_timeout_s=VISIBILITY_TIMEOUT_S)
    bench.submit(1_000)
    loser = start_loser(bench, lost_after_items=350).ready()
    other = bench.start_worker()
    lost = loser.wait_for("GPU lost, worker stops")
    assert loser.wait() == 1
    assert "fallen off the bus" in lost["reason"]
    last = loser.log_text().splitlines()[-1]
    assert last.startswith("clipfleet: the worker lost its GPU: GpuLostError: the fake GPU")
    assert len(loser.events("GPU lost, worker stops")) == 1
    assert 0 < len(loser.events("shard embedded")) <= 3

    bench.wait_for_items(1_000)
    bench.assert_whole(vectors=1_000)
    assert read_progress(bench.dataset_path(), bench.settings).refusals == []
    assert other.stop() == 0
    runs = [*loser.events("shard embedded"), *other.events("shard embedded")]
    assert len({event["shard"] for event in runs}) == len(runs) == 10


def test_what_a_lost_gpus_worker_held_is_in_the_queue_when_it_has_ended(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(visibility_timeout_s=VISIBILITY_TIMEOUT_S)
    bench.submit(500)
    loser = start_loser(bench, lost_after_items=150)
    loser.wait_for("GPU lost, worker stops")
    assert loser.wait() == 1
    assert bench.in_redis() == (4, 0)
    assert bench.counts("dataset") == (100, 0)
    messages = [json.loads(message) for message in bench.client.lrange(bench.queue, 0, -1)]
    assert [message["headers"]["retries"] for message in messages] == [0] * 4  # no attempt counted


def test_gathered_items_go_back_and_none_becomes_an_error_row(make_bench: MakeBench) -> None:
    bench = make_bench(visibility_timeout_s=VISIBILITY_TIMEOUT_S)
    bench.queue_items(texts(230))
    loser = start_loser(bench, lost_after_items=150)
    loser.wait_for("GPU lost, worker stops")
    assert loser.wait() == 1
    # On a slow machine the first windows may be less than full.
    written, errors = bench.counts(ITEMS)
    assert errors == 0
    assert 0 < written <= 150
    assert bench.in_redis() == (230 - written, 0)

    bench.start_worker()
    bench.wait_for_items(230, ITEMS)
    bench.assert_whole(ITEMS, vectors=230, errors=0)


def test_a_gpu_that_is_lost_at_the_start_is_told_and_may_be_tried_again(bench: Bench) -> None:
    bench.submit(100)
    loser = start_loser(bench, lost_after_items=0)
    assert loser.wait() == 1
    assert "did not load: GpuLostError: the fake GPU" in loser.log_text().splitlines()[-1]
    wait_until(lambda: bench.in_redis() == (1, 0), what="the message is queued")
