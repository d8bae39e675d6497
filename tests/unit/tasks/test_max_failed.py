"""`max_failed`: which shards are refused, and when a stopped job goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from clipfleet.errors import DatasetError, SettingsError
from clipfleet.items import Item
from clipfleet.messages import EmbedTask
from clipfleet.settings import load_settings
from clipfleet.settings.datasets import allowed_failures
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import QUEUED_PATH, Queued, read_queued, write_queued
from clipfleet.storage.plan.failures import failed_items
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks import max_failed as module
from clipfleet.tasks.embed_shard import embed_shard
from clipfleet.tasks.max_failed import NO_LIMIT, FailureCounts, TooManyFailedError, read_limit
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import write_fake_engine


class Hashes:
    """The few commands of Redis that counts use."""

    def __init__(self) -> None:
        self.fields: dict[str, int] = {}
        self.expires_s: dict[str, int] = {}
        self.answers = True

    def hget(self, _: str, field: str) -> bytes | None:
        if not self.answers:
            raise RedisConnectionError("gone")
        return str(self.fields[field]).encode() if field in self.fields else None

    def hsetnx(self, _: str, field: str, value: int) -> None:
        self.fields.setdefault(field, value)

    def hincrby(self, _: str, field: str, value: int) -> None:
        self.fields[field] += value

    def hdel(self, _: str, *fields: str) -> None:
        for field in fields:
            self.fields.pop(field, None)

    def expire(self, key: str, seconds: int) -> None:
        self.expires_s[key] = seconds


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Hashes:
    hashes = Hashes()
    monkeypatch.setattr(module, "_client", lambda _: hashes)
    return hashes


@pytest.fixture
def embedder(tmp_path: Path) -> Iterator[Embedder]:
    model = write_fake_engine(tmp_path, "txt")
    settings = load_settings(tower="txt", model=str(model), output=str(tmp_path / "out"))
    with Embedder.from_settings(settings) as opened:
        yield opened


@pytest.fixture
def dataset(embedder: Embedder) -> Dataset:
    """Return a dataset of 40 planned items in shards of 10; half of the items fail."""
    root = f"{embedder.settings.output}/d"
    made = Dataset.create(root, embedder.card, kind="planned", embedding_dtype="float16")
    items = [Item(id=f"t{n:02d}", text="words" if n % 2 else "") for n in range(40)]
    plan_items(made, ListSource(items), 10)
    return made


def limit(dataset: Dataset, max_failed: str | None) -> None:
    state = Queued(queue="q", dataset=dataset.root, last_job="00001", max_failed=max_failed)
    write_queued(dataset, state)


def embed_next(dataset: Dataset, embedder: Embedder) -> None:
    shard = next(missing_shards(dataset))
    task = EmbedTask(dataset=dataset.root, tower="txt", model=embedder.card.identity, shard=shard)
    embed_shard(task, embedder, worker="w")


@pytest.mark.parametrize(
    ("max_failed", "allowed"),
    [("5%", 50), ("0%", 0), ("0.05%", 0), ("2.5%", 25), ("100%", 1000), ("7", 7), ("0", 0)],
)
def test_a_limit_is_a_percentage_or_a_number(max_failed: str, allowed: int) -> None:
    assert allowed_failures(max_failed, 1000) == allowed


@pytest.mark.parametrize("wrong", ["", "%", "5 percent", "-1", "101%", "-5%", "1.5", "nan%", "٥"])
def test_another_limit_is_refused_with_its_value(wrong: str) -> None:
    with pytest.raises(SettingsError, match="neither a percentage") as caught:
        load_settings(max_failed=wrong)
    assert repr(wrong) in str(caught.value)


def test_a_job_is_stopped_when_more_items_failed_than_may(
    dataset: Dataset, embedder: Embedder, redis: Hashes
) -> None:
    limit(dataset, "25%")  # 10 of 40
    embed_next(dataset, embedder)
    embed_next(dataset, embedder)  # now 10 failed, and 10 may
    embed_next(dataset, embedder)
    with pytest.raises(TooManyFailedError, match=r"15 of the 40 .* more than --max-failed 25%"):
        embed_next(dataset, embedder)
    assert failed_items(dataset, "00001") == 15
    assert len(list(missing_shards(dataset))) == 1
    limit(dataset, NO_LIMIT)
    embed_next(dataset, embedder)
    assert not list(missing_shards(dataset))


def test_a_worker_that_finds_no_count_counts_the_files(
    dataset: Dataset, embedder: Embedder, redis: Hashes
) -> None:
    limit(dataset, "9")
    embed_next(dataset, embedder)
    embed_next(dataset, embedder)
    redis.fields.clear()  # Redis lost its data
    with pytest.raises(TooManyFailedError, match="10 of the 40 items of job 00001 failed"):
        embed_next(dataset, embedder)


def test_what_a_retry_embedded_does_not_count_and_a_retry_has_no_limit(
    dataset: Dataset, embedder: Embedder, redis: Hashes
) -> None:
    limit(dataset, "4")
    embed_next(dataset, embedder)
    plan_retry(dataset, (), 10)
    with pytest.raises(TooManyFailedError, match="5 of the 40"):
        embed_next(dataset, embedder)
    assert read_limit(dataset, dataset.root, "00002") is None
    *_, retry = missing_shards(dataset)
    task = EmbedTask(dataset=dataset.root, tower="txt", model=embedder.card.identity, shard=retry)
    embed_shard(task, embedder, worker="w")
    assert failed_items(dataset, "00001") == 0  # the retry has them
    client: Any = redis
    FailureCounts(client, embedder.settings.queue_prefix).forget(dataset.root, ["00001"])
    embed_next(dataset, embedder)


def test_without_redis_or_a_limit_no_shard_is_refused(
    dataset: Dataset, embedder: Embedder, redis: Hashes
) -> None:
    redis.answers = False
    limit(dataset, "0")
    embed_next(dataset, embedder)
    limit(dataset, None)
    embed_next(dataset, embedder)
    assert redis.fields == {}
    assert len(list(missing_shards(dataset))) == 2


def test_a_damaged_limit_is_named(dataset: Dataset) -> None:
    limit(dataset, "5%")
    text = dataset.fs.read(QUEUED_PATH).replace(b"5%", b"some")
    dataset.fs.replace(QUEUED_PATH, text)
    with pytest.raises(DatasetError, match=r"queued.json is damaged \('some' is neither"):
        read_queued(dataset)
