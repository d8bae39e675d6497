"""What is queued again, decided without Redis."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from kombu.exceptions import BatchPublishError  # type: ignore[attr-defined]
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import LockError, ResponseError

from clipfleet.errors import BrokerError, DatasetError
from clipfleet.messages import Shard, queue_name
from clipfleet.settings import load_settings
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import Queued, read_queued, write_queued
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.local.run import _fleet_settings
from clipfleet.tasks.submit.reconcile import (
    NO_FEED,
    NO_LOOK,
    NO_QUEUEING,
    Reconciler,
    is_ours,
    lost_shards,
)
from clipfleet.workers.engines.fake import fake_card, write_fake_engine
from tests.datasets import numbered_texts

QUEUED = Queued(queue="q", dataset="/d", last_job="00002")


def shards(*names: str) -> list[Shard]:
    return [Shard(job=n[:5], index=int(n[6:]), size=1) for n in names]


def names(found: list[Shard]) -> list[str]:
    return [shard.name for shard in found]


def test_a_shard_that_is_nowhere_is_lost() -> None:
    open_shards = shards("00001-0000000", "00001-0000001", "00002-0000000")
    lost = lost_shards(open_shards, QUEUED, in_redis={"00001-0000001"}, refused=())
    assert names(lost) == ["00001-0000000", "00002-0000000"]


def test_a_job_that_is_still_being_queued_is_left_alone() -> None:
    open_shards = shards("00002-0000000", "00003-0000000")
    lost = lost_shards(open_shards, QUEUED, in_redis=(), refused=())
    assert names(lost) == ["00002-0000000"]


def test_a_refused_shard_is_left_alone() -> None:
    open_shards = shards("00001-0000000", "00001-0000001")
    lost = lost_shards(open_shards, QUEUED, in_redis=(), refused={"00001-0000000"})
    assert names(lost) == ["00001-0000001"]


def test_nothing_is_lost_where_all_is_queued_or_done() -> None:
    assert lost_shards([], QUEUED, in_redis={"00001-0000000"}, refused=()) == []


def test_a_dataset_is_ours_at_its_own_place_and_in_our_queue(tmp_path: Path) -> None:
    root, link = tmp_path / "dataset", tmp_path / "link"
    root.mkdir()
    link.symlink_to(root)

    def ours(name: Path | str, queue: str = "q") -> bool:
        queued = Queued(queue=queue, dataset=str(name), last_job="00001")
        return is_ours(queued, str(root), queue="q", output=str(tmp_path))

    assert ours(root)
    assert ours(link)
    assert not ours(root, queue="another fleet's")
    assert not ours(tmp_path / "where it was copied from")
    assert not ours("/elsewhere")
    assert not ours("")


def test_without_redis_a_look_says_so(tmp_path: Path) -> None:
    settings = load_settings(redis_url="redis://127.0.0.1:1/0", output=str(tmp_path))
    with pytest.raises(BrokerError, match="Redis at redis://127"):
        Reconciler(settings, fake_card("txt")).look()


def test_an_interval_of_zero_switches_it_off(tmp_path: Path) -> None:
    settings = load_settings(output=str(tmp_path), reconcile_interval_s=0)
    with Reconciler(settings, fake_card("txt")) as reconciler:
        assert not reconciler.running
    on = settings.model_copy(update={"reconcile_interval_s": 60.0})
    with Reconciler(on, fake_card("txt")) as reconciler:
        assert reconciler.running
    assert not reconciler.running


class Redis:
    """A Redis in which nobody noted a refusal."""

    def llen(self, _: str) -> int:
        return 0

    def lrange(self, _: str, start: int, end: int) -> list[bytes]:
        assert (start, end) == (0, -1)
        return []


@pytest.fixture
def two_datasets(tmp_path: Path) -> list[Dataset]:
    """Two datasets of this fleet, with open shards that wait for room."""
    made = []
    for name in ("one", "two"):
        dataset = Dataset.create(
            str(tmp_path / "output" / name),
            fake_card("txt"),
            kind="planned",
            embedding_dtype="float16",
        )
        plan_items(dataset, ListSource(numbered_texts(20)), 10)
        rest = Queued(
            queue=queue_name("txt", "clipfleet"),
            dataset=dataset.root,
            last_job="00001",
            rest="00001-0000000",
        )
        write_queued(dataset, rest)
        made.append(dataset)
    return made


@pytest.fixture
def reconciler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reconciler:
    """A worker's look at an empty queue."""
    monkeypatch.setattr("clipfleet.tasks.submit.reconcile.message_counts", lambda *_: (0, 0))
    monkeypatch.setattr("clipfleet.tasks.submit.reconcile.shards_in_redis", lambda *_: {})
    settings = load_settings(output=str(tmp_path / "output"), reconcile_interval_s=0.001)
    return Reconciler(settings, fake_card("txt"))


def look(reconciler: Reconciler) -> int:
    client: Any = Redis()
    return reconciler._look(client)


def raising(fault: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise fault

    return fail


@pytest.mark.parametrize(
    "fault",
    [
        LockError("not owned"),
        ResponseError("OOM command not allowed"),
        BatchPublishError("some of it"),
        DatasetError("damaged"),
        OSError(errno.EIO, "Input/output error"),
    ],
)
def test_a_dataset_that_cannot_be_fed_holds_up_no_other_and_is_told_once_each_time(
    two_datasets: list[Dataset],
    reconciler: Reconciler,
    fault: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = {two_datasets[0].root}

    def feed(_: Any, dataset: Dataset, *__: Any) -> int:
        if dataset.root in bad:
            raise fault
        return 7

    monkeypatch.setattr("clipfleet.tasks.submit.reconcile.feed", feed)
    caplog.set_level("WARNING")
    assert [look(reconciler), look(reconciler)] == [7, 7]
    assert caplog.messages == [NO_FEED]
    bad.clear()
    assert look(reconciler) == 14
    bad.add(two_datasets[0].root)
    look(reconciler)
    assert caplog.messages == [NO_FEED] * 2


def test_a_redis_that_is_out_of_reach_ends_the_look(
    two_datasets: list[Dataset], reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "clipfleet.tasks.submit.reconcile.feed", raising(RedisConnectionError("cut"))
    )
    with pytest.raises(RedisConnectionError):
        look(reconciler)


def test_lost_shards_that_cannot_be_queued_hold_up_no_other_dataset(
    two_datasets: list[Dataset],
    reconciler: Reconciler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = []

    def queueing_lock(_: Any, queue: str, name: str) -> NoReturn:
        asked.append(name)
        raise LockError("not owned")

    for dataset in two_datasets:
        known = read_queued(dataset)
        assert known is not None
        write_queued(dataset, replace(known, rest=None))
    monkeypatch.setattr("clipfleet.tasks.submit.reconcile.queueing_lock", queueing_lock)
    assert look(reconciler) == 0
    assert asked == [dataset.root for dataset in two_datasets]
    assert caplog.messages == [NO_QUEUEING] * 2


def test_a_dataset_that_the_disk_did_not_show_is_looked_at_again(
    two_datasets: list[Dataset],
    reconciler: Reconciler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("clipfleet.tasks.submit.reconcile.feed", lambda *_: 1)
    with monkeypatch.context() as patch:
        patch.setattr(
            "clipfleet.tasks.submit.reconcile.dataset_root", raising(OSError(errno.ESTALE, "Stale"))
        )
        assert look(reconciler) == 0
    assert set(caplog.messages) == {NO_LOOK}
    assert look(reconciler) == 2


def test_the_workers_of_embed_look_even_where_a_fleets_do_not(tmp_path: Path) -> None:
    model = write_fake_engine(tmp_path, "txt")
    off = load_settings(reconcile_interval_s=0)
    assert (
        0 < _fleet_settings(off, str(tmp_path), model, fake_card("txt")).reconcile_interval_s < 10
    )
