"""What befalls workers: kills, stops, hangs, failing disks, wrong messages, wrong beginnings."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from clipfleet.messages import EMBED_TASK
from clipfleet.storage.format.parts import part_path
from clipfleet.tasks.broker.queue_stats import waiting_messages
from clipfleet.tasks.retry_policy import times_lost
from clipfleet.tasks.status.progress import read_progress
from tests.integration.conftest import MakeBench
from tests.integration.support import PATIENCE_S, Bench, WorkerProcess, wait_until
from tests.steps import Step

pytestmark = pytest.mark.integration

VISIBILITY_TIMEOUT_S = 3  # so long may a worker of a busy machine be late with a renewal


def start_run(bench: Bench, items: int) -> WorkerProcess:
    """Submit, and return a worker that has the second shard reserved, and the first in its engine.

    There it stays until the step is released.
    """
    bench.hold(Step.ENGINE)
    bench.submit(items)
    worker = bench.start_held_worker().ready()
    bench.wait_held(Step.ENGINE)
    wait_until(lambda: bench.in_redis()[1] == 2, what="two messages held")
    return worker


def send_embed(bench: Bench, *args: Any, **kwargs: Any) -> None:
    with Celery(broker=bench.settings.redis_url, set_as_current=False) as app:
        app.send_task(EMBED_TASK, args=args, kwargs=kwargs, queue=bench.queue)


def test_sigterm_finishes_the_running_shard_and_hands_back_the_rest(bench: Bench) -> None:
    worker = start_run(bench, 300)
    worker.process.send_signal(signal.SIGTERM)
    bench.release(Step.ENGINE)
    assert worker.wait() == 0
    done = len(worker.events("shard embedded"))
    assert done >= 1
    assert bench.in_redis() == (3 - done, 0)
    assert bench.counts("dataset") == (100 * done, 0)

    bench.start_worker()
    bench.wait_for_items(300)
    bench.assert_whole(vectors=300)


def give_and_stop(bench: Bench) -> WorkerProcess:
    """Return a worker that is told to stop just after its child, suspended, was given a shard."""
    worker = bench.start_worker().ready()
    worker.signal_child(signal.SIGSTOP)  # so that it does not say that it has it
    bench.submit(100)
    wait_until(lambda: bench.in_redis() == (0, 1), what="the worker has it")
    time.sleep(0.3)  # and has written it to its child
    worker.process.send_signal(signal.SIGTERM)
    return worker


def test_a_shard_that_the_child_was_just_given_is_done_before_a_worker_stops(
    bench: Bench,
) -> None:
    worker = give_and_stop(bench)
    wait_until(lambda: "Warm shutdown" in worker.log_text(), what="it stops")
    time.sleep(2)  # it looks for signals once a second
    worker.signal_child(signal.SIGCONT)
    assert worker.wait() == 0  # not after half a minute
    done = len(worker.events("shard embedded"))
    assert bench.in_redis() == (1 - done, 0)


def test_a_shard_that_a_stuck_child_was_just_given_is_handed_back(make_bench: MakeBench) -> None:
    bench = make_bench(stop_grace_s=2, visibility_timeout_s=600)
    assert give_and_stop(bench).wait() == 0
    assert bench.in_redis() == (1, 0)


def test_a_worker_that_drains_keeps_its_hold_on_the_running_shard(make_bench: MakeBench) -> None:
    bench = make_bench(visibility_timeout_s=VISIBILITY_TIMEOUT_S)
    bench.hold(Step.ENGINE)
    bench.submit(100)
    first = bench.start_held_worker()
    bench.wait_held(Step.ENGINE)
    second = bench.start_worker().ready()
    first.process.send_signal(signal.SIGTERM)
    time.sleep(2 * VISIBILITY_TIMEOUT_S)  # in which it would be delivered again
    bench.release(Step.ENGINE)
    assert first.wait() == 0
    bench.wait_for_items(100)
    assert len(first.events("shard embedded")) == 1
    assert second.stop() == 0  # which would finish a second run
    assert [event for event in second.events() if "shard" in event] == []


def test_a_shard_that_outlasts_the_grace_period_is_handed_back(make_bench: MakeBench) -> None:
    bench = make_bench(stop_grace_s=0.5)
    worker = start_run(bench, 200)
    assert worker.stop() == 0
    assert bench.in_redis() == (2, 0)
    waiting = list(waiting_messages(bench.client, bench.queue))
    losses = [times_lost(message["properties"]["delivery_info"]) for message in waiting]
    assert losses == [0, 0]  # a stop is no reason to refuse a shard


def test_a_shard_that_hangs_is_killed_at_its_deadline_and_runs_again(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(shard_deadline_s=2)
    worker = start_run(bench, 200)
    with suppress(ProcessLookupError):  # on a slow machine the deadline was first
        worker.signal_child(signal.SIGSTOP)
    worker.wait_for("nothing done within the deadline, child killed")
    worker.wait_for("engine loaded", count=2)
    bench.wait_for_items(200)
    bench.assert_whole(vectors=200)


def test_a_failing_disk_puts_a_shard_off_and_loses_nothing(served: Bench) -> None:
    worker = served.workers[-1]
    with worker.suspended():
        served.submit(200, "disk")
        parts = Path(served.dataset_path("disk"), "parts")
        parts.write_text("not a folder")
    worker.wait_for("shard failed, will be tried again", count=3)
    wait_until(lambda: sum(served.in_redis()) == 2, what="both shards in Redis")
    parts.unlink()
    served.wait_for_items(200, "disk")
    served.assert_whole("disk", vectors=200)


def test_wrong_messages_are_refused_with_a_reason_and_the_worker_lives(bench: Bench) -> None:
    submission = bench.submit(100)
    bench.client.delete(bench.queue)
    shard = {"job": "00001", "index": 0, "size": 100}
    right = {"dataset": submission.dataset, "tower": "txt", "shard": shard}
    model = read_progress(submission.dataset, bench.settings).dataset.info.model
    send_embed(bench, **right, model="0" * 64)
    send_embed(bench, **{**right, "shard": {**shard, "index": 9}}, model=model)
    send_embed(bench, **{**right, "dataset": "/etc"}, model=model)
    send_embed(bench, **{**right, "dataset": f"{submission.dataset}/../x"}, model=model)
    send_embed(bench, **right)
    send_embed(bench, "positional", **right, model=model)
    send_embed(bench, surprise=1)
    worker = bench.start_worker()
    worker.wait_for("message refused", count=7)
    assert worker.events("shard embedded") == []

    reasons = [event["reason"] for event in worker.events("message refused")]
    expected = [
        "this worker serves fake txt",
        "there is none with index 9",
        "'/etc' is not inside this worker's output folder",
        "has '..' in it",
        "takes keyword arguments only",
        "surprise",
    ]
    assert [e for e in expected if not any(e in reason for reason in reasons)] == []
    progress = read_progress(submission.dataset, bench.settings)
    assert progress.refusals
    assert any(line.startswith("  refused shard 00001-") for line in progress.lines())
    bench.submit(100)
    bench.wait_for_items(100)
    bench.assert_whole(vectors=100)
    assert read_progress(submission.dataset, bench.settings).refusals == []


def test_broken_bodies_and_headers_do_not_end_the_worker(served: Bench) -> None:
    worker = served.workers[-1]
    bodies: list[Any] = [[], [1], {"a": 1}, "text", [[], {}, {}]]
    for task in (EMBED_TASK, "clipfleet.embed_items", "somebody.elses"):
        for body in bodies:
            for headers in ({"task": task}, {"task": task, "id": "x"}):
                publish(served, body, headers)
    served.submit(100, "broken")
    served.wait_for_items(100, "broken")
    assert worker.process.poll() is None


def publish(bench: Bench, body: Any, headers: dict[str, Any]) -> None:
    with (
        Celery(broker=bench.settings.redis_url, set_as_current=False) as app,
        app.producer_pool.acquire(block=True) as producer,
    ):
        producer.publish(
            body, exchange="", routing_key=bench.queue, headers=headers, serializer="json"
        )


def test_control_answers_while_a_shard_runs(bench: Bench) -> None:
    worker = start_run(bench, 200)
    with Celery(broker=bench.settings.redis_url, set_as_current=False) as app:
        answers = app.control.broadcast("ping", reply=True, timeout=PATIENCE_S, limit=1)
    assert len(answers or []) == 1
    assert worker.events("shard embedded") == []


def test_credentials_are_never_logged(served: Bench) -> None:
    worker = served.workers[-1]
    served.submit(100, "told")
    served.wait_for_items(100, "told")
    assert "open-sesame" in served.settings.redis_url
    assert "open-sesame" not in worker.log_path.read_text()
    done = worker.wait_for("shard embedded")
    assert {"time", "level", "shard", "dataset", "items", "errors", "seconds", "items_per_s"} <= {
        *done
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"redis_url": "redis://:hush@127.0.0.1:1/0"}, "Redis at redis://:**@127.0.0.1:1/0 does"),
        ({"redis_url": "amqp://127.0.0.1"}, "expected redis://"),
    ],
)
def test_a_worker_without_a_redis_refuses_to_start_and_says_why(
    bench: Bench, changes: dict[str, Any], reason: str
) -> None:
    """tests/unit/tasks/test_lifecycle.py has what else a worker refuses before it starts."""
    worker = bench.start_worker(**changes)
    assert worker.wait() == 2
    assert reason in worker.log_text()
    assert "Traceback" not in worker.log_text()
    assert "hush" not in worker.log_text()


def test_a_worker_whose_engine_does_not_load_stops_and_says_why(bench: Bench) -> None:
    engine = Path(str(bench.settings.model).removesuffix(".card.json"))
    engine.write_text("no engine")
    worker = bench.start_worker()
    assert worker.wait() == 2
    assert len(worker.events("engine not loaded, worker stops")) == 1
    assert "did not load: EngineDamagedError" in worker.log_text().splitlines()[-1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="CPython 3.10 has no safe path")
def test_a_worker_runs_nothing_that_lies_in_its_working_folder(bench: Bench) -> None:
    for name in ("json", "ctypes", "celery"):
        (bench.folder / f"{name}.py").write_text("raise SystemExit('a stranger was run')")
    bench.submit(100)
    worker = bench.start_listed_worker()
    bench.wait_for_items(100)
    assert worker.stop() == 0
    assert "a stranger" not in worker.log_text()


def test_a_part_that_is_damaged_does_not_stop_the_other_shards(served: Bench) -> None:
    worker = served.workers[-1]
    with worker.suspended():
        served.submit(300, "damaged")
        part = Path(served.dataset_path("damaged"), part_path("00001-0000001"))
        part.parent.mkdir()
        part.write_bytes(b"no parquet")
    wait_until(lambda: served.counts("damaged") == (200, 0), what="two shards")
    refused = worker.wait_for("message refused")
    assert "00001-0000001" in refused["reason"]


@pytest.mark.parametrize("key", [None, "k" * 32], ids=["unsigned", "signed"])
def test_a_worker_touches_its_heartbeat_file_while_it_takes_messages(
    make_bench: MakeBench, tmp_path: Path, key: str | None
) -> None:
    heartbeat = tmp_path / "heartbeat"
    bench = make_bench(heartbeat_file=str(heartbeat), message_key=key)
    worker = bench.start_worker()
    wait_until(heartbeat.exists, what="the first heartbeat")
    first_s = heartbeat.stat().st_mtime
    wait_until(lambda: heartbeat.stat().st_mtime > first_s, what="the next heartbeat")
    assert worker.stop() == 0
