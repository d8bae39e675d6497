"""`clipfleet status`: its exit code, and the end of `--watch` where nothing can move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import clipfleet
from clipfleet.cli import dataset_commands
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.status import stall
from clipfleet.tasks.worker.presence import EXPIRES_S, Presence, Presences
from tests.datasets import embedded_texts, fake_dataset, numbered_texts
from tests.integration.conftest import MakeBench
from tests.integration.support import Bench, run_command, wait_until

pytestmark = pytest.mark.integration

NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_commands, "_WATCH_INTERVAL_S", 0.01)
    for limit in ("_NOT_QUEUED_S", "_NO_REDIS_S", "_NO_WORKER_S"):
        monkeypatch.setattr(stall, limit, 0.05)


def planned(folder: Path) -> Dataset:
    """Return a dataset of two planned shards, of which none is done."""
    dataset = fake_dataset(folder)
    plan_items(dataset, ListSource(numbered_texts(20)), 10)
    return dataset


def test_a_dataset_is_done_with_code_0_and_without_redis(tmp_path: Path) -> None:
    dataset = planned(tmp_path)
    for shard in missing_shards(dataset):
        ended = run_command("status", dataset.root, "--redis-url", NO_REDIS)
        assert ended.returncode == 1
        assert "queue unknown: Redis at redis://127.0.0.1:1/0 does not answer" in ended.stdout
        commit(dataset, shard.name, embedded_texts(10), card=dataset.info.card, worker="w")
    ended = run_command("status", dataset.root, "--redis-url", NO_REDIS, "--json")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["broker_error"] is None


def test_a_watch_without_redis_ends(tmp_path: Path) -> None:
    ended = run_command("status", planned(tmp_path).root, "--watch", "--redis-url", NO_REDIS)
    assert ended.returncode == 1
    assert "nothing can move: Redis at redis://127.0.0.1:1/0 does not answer" in ended.stderr


def test_a_watch_of_a_queue_that_no_worker_serves_ends(bench: Bench) -> None:
    bench.submit(200)
    url = bench.settings.redis_url
    ended = run_command("status", bench.dataset_path(), "--watch", "--json", "--redis-url", url)
    assert ended.returncode == 1
    assert "no worker has held a message" in json.loads(ended.stdout)["stuck"]
    # As a killed worker leaves it: held, and no longer renewed.
    message: Any = bench.client.rpop(bench.queue)
    bench.client.hset(f"{bench.queue}.unacked", "tag", message)
    bench.client.zadd(f"{bench.queue}.unacked.times", {"tag": 1.0})
    ended = run_command("status", bench.dataset_path(), "--redis-url", url)
    assert "1 messages wait for this tower's workers, 1 are held" in ended.stdout
    assert "no living worker holds one" in ended.stdout


def test_a_watch_of_refused_shards_ends_and_other_datasets_do_not_show_them(bench: Bench) -> None:
    bench.submit(200)
    bench.submit(200, "other")  # its messages stay in the queue
    root, url = bench.dataset_path(), bench.settings.redis_url
    for name in ("00001-0000000", "00001-0000001"):
        refuse(bench.settings, f"shard {name}", root, reason="no such model")
    refuse(bench.settings, "garbage in Redis", "", reason="no message", planned=False)
    ended = run_command("status", root, "--watch", "--redis-url", url)
    assert ended.returncode == 1
    assert "nothing can move: the workers refused every missing shard (2)" in ended.stderr
    assert "refused shard 00001-0000000: no such model" in ended.stdout
    other = run_command("status", bench.dataset_path("other"), "--redis-url", url)
    assert "no such model" not in other.stdout
    assert "garbage" not in ended.stdout + other.stdout


def test_items_of_a_running_shard_count_at_once_and_its_worker_is_shown(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(item_s=0.05, max_batch=8)
    bench.submit(100)  # one shard, of seconds
    worker = bench.start_worker().ready()
    progress = clipfleet.status(bench.dataset_path(), settings=bench.settings)

    def within() -> bool:
        progress.refresh()
        return 0 < progress.snapshot().done < 100

    wait_until(within, what="items of the running shard")
    assert (progress.done, progress.shards_done) == (0, 0)
    url = bench.settings.redis_url
    ended = run_command("status", "--redis-url", url, "--json")
    assert ended.returncode == 0
    [shown] = json.loads(ended.stdout)["workers"]
    assert shown["worker"].startswith("txt-")
    assert shown["shard"] == f"{bench.dataset_path()} 00001-0000000"
    assert 0 < shown["items"] <= 100
    bench.wait_for_items(100)
    assert "1 workers, " in run_command("status", "--redis-url", url).stdout
    assert worker.stop() == 0
    assert clipfleet.fleet(settings=bench.settings).workers == []  # it took its presence back


def test_the_presence_of_a_killed_worker_expires_and_its_name_is_forgotten(bench: Bench) -> None:
    presences = Presences(bench.client, bench.settings.queue_prefix)
    told = Presence(
        worker="w", host="h", tower="txt", runtime="fake", gpu=None, items=3, items_per_s=1.5
    )
    presences.write(told)
    assert presences.all() == [told]
    [key] = bench.client.scan_iter("*.worker.w")
    assert 0 < bench.client.ttl(key) <= EXPIRES_S
    bench.client.set(key, "of another version")
    assert presences.all() == []
    bench.client.delete(key)
    assert presences.all() == []
    assert not list(bench.client.scan_iter("*.workers"))


def test_a_watch_of_the_fleet_alone_says_that_it_never_ends() -> None:
    ended = run_command("status", "--watch", "--json", "--redis-url", NO_REDIS)
    assert ended.returncode == 2
    assert "--watch without a dataset never ends" in ended.stderr
    ended = run_command("status", "--redis-url", NO_REDIS)
    assert (ended.returncode, "does not answer" in ended.stderr) == (2, True)
