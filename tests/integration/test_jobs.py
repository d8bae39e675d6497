"""Jobs end to end: submit, a real worker, a real Redis, files."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfleet.storage.commit.record import record_path
from clipfleet.storage.format.parts import part_path
from clipfleet.tasks.status.progress import read_progress
from tests.integration.support import Bench

pytestmark = pytest.mark.integration


def test_a_job_ends_complete_and_a_second_submit_does_nothing(served: Bench) -> None:
    worker = served.workers[-1]
    submission = served.submit(3_050, "job")
    assert (submission.planned_shards, submission.queued_shards) == (31, 31)
    served.wait_for_items(3_050, "job")
    served.assert_whole("job", vectors=3_050)

    again = served.submit(3_050, "job")
    assert (again.job, again.planned_items, again.queued_shards) == (None, 0, 0)
    assert len(worker.events("shard embedded")) == 31
    progress = read_progress(served.dataset_path("job"), served.settings)
    assert progress.finished
    assert (progress.total, progress.vectors, progress.errors) == (3_050, 3_050, 0)
    assert (progress.waiting, progress.held, progress.refusals) == (0, 0, [])


def test_what_was_deleted_comes_back_and_nothing_else(served: Bench) -> None:
    worker = served.workers[-1]
    served.submit(1_000, "deleted")
    served.wait_for_items(1_000, "deleted")
    root = Path(served.dataset_path("deleted"))
    for index in (2, 7):
        (root / part_path(f"00001-{index:07d}")).unlink()
    (root / record_path("00001-0000002")).unlink()
    untouched = {path: path.stat().st_ino for path in (root / "parts").iterdir()}

    assert served.submit(1_000, "deleted").queued_shards == 2
    served.wait_for_items(1_000, "deleted")
    served.assert_whole("deleted", vectors=1_000)
    assert len(worker.events("shard embedded")) == 10 + 2
    assert {path: path.stat().st_ino for path in untouched} == untouched


def test_a_part_without_a_record_is_finished_and_not_embedded_again(served: Bench) -> None:
    worker = served.workers[-1]
    served.submit(300, "recorded")
    served.wait_for_items(300, "recorded")
    Path(served.dataset_path("recorded"), record_path("00001-0000001")).unlink()
    assert served.submit(300, "recorded").queued_shards == 0
    served.assert_whole("recorded", vectors=300)
    assert len(worker.events("shard embedded")) == 3


def test_more_items_in_the_source_are_a_second_job(served: Bench) -> None:
    served.submit(250, "more")
    served.wait_for_items(250, "more")
    submission = served.submit(320, "more")
    assert (submission.job, submission.planned_items) == ("00002", 70)
    served.wait_for_items(320, "more")
    served.assert_whole("more", vectors=320)
    second = read_progress(f"{served.dataset_path('more')}:00002", served.settings)
    assert (second.total, second.vectors, second.shards) == (70, 70, 1)


def test_shards_that_are_queued_are_not_queued_twice(bench: Bench) -> None:
    assert bench.submit(1_000).queued_shards == 10
    assert bench.submit(1_000).queued_shards == 0
    assert bench.in_redis() == (10, 0)
    bench.client.rpop(bench.queue)  # a message that Redis lost with its worker
    assert bench.submit(1_000).queued_shards == 1


def test_redis_holds_one_small_message_for_each_shard(bench: Bench) -> None:
    bench.submit(20_000, shard_size=20)
    assert bench.in_redis() == (1_000, 0)
    used_bytes = bench.client.memory_usage(bench.queue, samples=0)
    assert isinstance(used_bytes, int)
    assert used_bytes < 1_000 * 2_000
