"""Lost messages: `resume` after Redis lost everything, and workers that look by themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clipfleet.messages import Shard
from clipfleet.model_card import load_card
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import read_queued
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.broker.refusals import Refusal, Refusals
from clipfleet.tasks.submit import enqueue as queueing
from clipfleet.tasks.submit.enqueue import queue_missing
from clipfleet.tasks.submit.lock import queueing_lock
from clipfleet.tasks.submit.reconcile import Reconciler
from clipfleet.tasks.submit.resume import resume
from clipfleet.workers.environment import environment_of
from tests.datasets import numbered_texts
from tests.integration.conftest import MakeBench
from tests.integration.support import Bench, run_command, wait_until
from tests.steps import Step

pytestmark = pytest.mark.integration

INTERVAL_S = 1.0


def run_resume(bench: Bench) -> dict[str, Any]:
    """Resume from the dataset alone: no model, no tower in the settings."""
    bare = bench.settings.model_copy(update={"model": None, "tower": None, "output": None})
    done = run_command("resume", bench.dataset_path(), "--json", environment=environment_of(bare))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def reconciler_of(bench: Bench) -> Reconciler:
    card, _ = load_card(str(bench.settings.model))
    return Reconciler(bench.settings, card)


def test_redis_loses_everything_and_resume_puts_back_what_is_missing(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(reconcile_interval_s=0)
    bench.hold_engine(after_shards=1)
    bench.submit(1_000)
    bench.submit(1_450)  # a second job
    worker = bench.start_held_worker()
    bench.wait_held(Step.ENGINE)
    wait_until(lambda: bench.counts("dataset")[0] == 100, what="a shard")
    bench.client.flushall()

    resumed = run_resume(bench)
    assert 0 < resumed["queued_shards"] <= resumed["open_shards"] < 15
    again = resume(bench.dataset_path(), settings=bench.settings)
    assert again.queued_shards <= 1  # a message may be between two hands
    bench.release(Step.ENGINE)
    bench.wait_for_items(1_450)
    bench.assert_whole(vectors=1_450)
    assert worker.stop() == 0
    assert resume(bench.dataset_path(), settings=bench.settings).open_shards == 0


def test_resume_queues_each_shard_once(bench: Bench) -> None:
    bench.submit(500)
    assert resume(bench.dataset_path(), settings=bench.settings).queued_shards == 0
    bench.client.delete(bench.queue)
    assert run_resume(bench) == {
        "dataset": bench.dataset_path(),
        "open_shards": 5,
        "queued_shards": 5,
        "later_shards": 0,
    }
    assert bench.in_redis() == (5, 0)


def test_two_workers_miss_a_lost_message_and_one_of_them_queues_it_again(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(item_s=0.003, reconcile_interval_s=INTERVAL_S)
    bench.submit(500)
    assert bench.client.lpop(bench.queue)
    workers = [bench.start_worker(), bench.start_worker()]
    bench.wait_for_items(500)
    bench.assert_whole(vectors=500)
    for worker in workers:
        worker.ready()
        assert worker.stop() == 0
    told = [e for worker in workers for e in worker.events("lost shards queued again")]
    assert [event["shards"] for event in told] == [1]
    runs = [e["shard"] for worker in workers for e in worker.events("shard embedded")]
    assert sorted(runs) == [f"00001-{index:07d}" for index in range(5)]
    assert [e for worker in workers for e in worker.events("shard was done before")] == []


def test_a_submission_that_is_still_being_queued_is_left_alone(make_bench: MakeBench) -> None:
    bench = make_bench(reconcile_interval_s=0.1)
    card, _ = load_card(str(bench.settings.model))
    dataset = Dataset.create(bench.dataset_path(), card, kind="planned", embedding_dtype="float16")
    plan_items(dataset, ListSource(numbered_texts(300)), 100)
    reconciler = reconciler_of(bench)
    assert look_in_turn(bench, reconciler) == 0  # planned, and nothing queued yet

    queue_missing(dataset, bench.settings)
    bench.client.delete(bench.queue)
    with queueing_lock(bench.client, bench.queue, dataset.root):  # somebody queues it again
        assert look_in_turn(bench, reconciler) == 0
    assert look_in_turn(bench, reconciler) == 3
    assert bench.in_redis() == (3, 0)
    assert look_in_turn(bench, reconciler) == 0

    plan_items(dataset, ListSource(numbered_texts(500)), 100)  # a second job
    assert look_in_turn(bench, reconciler) == 0
    assert queue_missing(dataset, bench.settings).queued == 2
    queued = read_queued(dataset)
    assert queued is not None
    assert queued.last_job == "00002"


def look_in_turn(bench: Bench, reconciler: Reconciler) -> int:
    """Look, as if the interval were over."""
    bench.client.delete(f"{bench.queue}.reconciler")
    return reconciler.look()


def test_one_worker_looks_in_each_interval(bench: Bench) -> None:
    bench.submit(300)
    bench.client.delete(bench.queue)
    assert bench.client.set(f"{bench.queue}.reconciler", 1)  # another worker's turn
    assert reconciler_of(bench).look() == 0
    assert bench.in_redis() == (0, 0)


def test_refused_shards_and_foreign_datasets_are_left_alone(make_bench: MakeBench) -> None:
    bench = make_bench(reconcile_interval_s=0.1)
    submission = bench.submit(300)
    bench.submit(100, name="another", queue_prefix="another-fleet")
    bench.client.delete(bench.queue)
    refusals = Refusals(bench.client, bench.settings.queue_prefix)
    refusals.record(
        Refusal(
            message="shard 00001-0000001", dataset=submission.dataset, reason="r", time="2026-11-22"
        )
    )
    Path(bench.dataset_path(), "..", "damaged").mkdir()
    Path(bench.dataset_path(), "..", "damaged", "dataset.json").write_text("{")
    reconciler = reconciler_of(bench)
    assert look_in_turn(bench, reconciler) == 2
    assert look_in_turn(bench, reconciler) == 0
    # Somebody says that the cause is mended.
    assert resume(bench.dataset_path(), settings=bench.settings).queued_shards == 1
    assert refusals.all() == []


def test_a_submit_waits_until_nobody_else_queues(bench: Bench) -> None:
    bench.submit(300)
    key = queueing_lock(bench.client, bench.queue, bench.dataset_path()).name
    assert bench.client.get(key) is None  # given back
    bench.client.delete(bench.queue)
    bench.client.set(key, "a killed process", px=500)
    assert bench.submit(300).queued_shards == 3
    assert bench.client.get(key) is None


def test_redis_loses_everything_while_shards_are_queued(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(300)
    bench.client.delete(bench.queue)
    monkeypatch.setattr(queueing, "missing_shards", flushing(bench, missing_shards))
    assert resume(bench.dataset_path(), settings=bench.settings).queued_shards == 3
    assert bench.in_redis() == (3, 0)


def flushing(bench: Bench, real: Callable[..., Iterator[Shard]]) -> Callable[..., Iterator[Shard]]:
    """Return a `missing_shards` whose first result empties Redis before the last shard."""
    flushed: list[bool] = []

    def shards(*args: Any) -> Iterator[Shard]:
        *first, last = real(*args)
        yield from first
        if not flushed:
            flushed.append(bool(bench.client.flushall()))
        yield last

    return shards
