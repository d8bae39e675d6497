"""What is queued again, decided without Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfleet.errors import BrokerError
from clipfleet.jobs import Shard
from clipfleet.settings import load_settings
from storage.queued import Queued
from tasks.lost import is_ours, lost_shards
from tasks.one_shot import _fleet_settings
from tasks.reconcile import Reconciler
from workers.engines.fake import fake_card, write_fake_engine

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


def test_the_workers_of_embed_look_even_where_a_fleets_do_not(tmp_path: Path) -> None:
    model = write_fake_engine(tmp_path, "txt")
    off = load_settings(reconcile_interval_s=0)
    assert 0 < _fleet_settings(off, str(tmp_path), model).reconcile_interval_s < 10
