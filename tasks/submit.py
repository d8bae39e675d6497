"""Submitting: plan what a dataset does not have, queue what is missing.

A producer loads this module: no engine, no torch.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.exceptions import BatchPublishError, OperationalError  # type: ignore[attr-defined]
from redis.exceptions import RedisError

from clipfleet.card import load_card
from clipfleet.jobs import EMBED_TASK, EmbedTask, Shard, queue_name
from clipfleet.settings import Settings
from storage.dataset import Dataset
from storage.manifest import complete, missing_shards, unfinished
from storage.plan import plan_items
from storage.sources import Source
from tasks.app import make_app
from tasks.broker import Client, check_broker, connect, held_messages, unreachable, waiting_messages
from tasks.refusals import Refusals

_BATCH_MESSAGES = 500  # a round trip
_PUBLISH_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What `submit` did; `job` is None if the dataset had every item already."""

    dataset: str
    job: str | None
    planned_items: int
    planned_shards: int
    queued_shards: int

    def to_json(self) -> dict[str, Any]:
        """Return the submission in JSON's types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the submission in words."""
        planned = (
            f"planned {self.planned_items:,} items in {self.planned_shards:,} shards as job "
            f"{self.job}"
            if self.job
            else "planned nothing: every item is in the dataset's plan"
        )
        queued = (
            f"queued {self.queued_shards:,} shards"
            if self.queued_shards
            else "queued nothing: every planned shard is done or in the queue"
        )
        return [f"{self.dataset}: {planned}; {queued}"]


def submit(
    source: Source, dataset_root: str, model: str | Path, *, settings: Settings
) -> Submission:
    """Plan the items of a source that a dataset does not have, and queue what is missing.

    Raises:
        BrokerError: Redis does not answer; nothing is planned, or the plan is not all queued
            and submitting again goes on.
        UsageError: The card, the source or the dataset is not fit for use.
    """
    card, _ = load_card(model)
    check_broker(settings.redis_url)
    dataset = Dataset.create(dataset_root, card, embedding_dtype=settings.embedding_dtype)
    for name in unfinished(dataset):  # a worker died between a part and its record
        complete(dataset, name)
    job = plan_items(dataset, source, settings.shard_size)
    return Submission(
        dataset=dataset.root,
        job=job.id if job else None,
        planned_items=job.items if job else 0,
        planned_shards=job.shards if job else 0,
        queued_shards=queue_missing(dataset, settings),
    )


def queue_missing(dataset: Dataset, settings: Settings) -> int:
    """Queue the planned shards that are neither done nor in Redis; return how many.

    Raises:
        BrokerError: Redis does not answer; calling again goes on.
    """
    app = make_app(settings)
    try:
        with connect(settings.redis_url) as client:
            Refusals(client, settings.queue_prefix).forget(dataset.root)
            return _queue_missing(dataset, app, client, settings)
    except (RedisError, OperationalError, BatchPublishError, OSError) as error:
        raise unreachable(settings.redis_url, error) from error
    finally:
        app.close()


def _queue_missing(dataset: Dataset, app: Celery, client: Client, settings: Settings) -> int:
    queue = queue_name(dataset.info.tower, settings.queue_prefix)
    sent: set[str] = set()
    for attempt in range(1, _PUBLISH_ATTEMPTS + 1):
        there = queued_shards(client, queue, dataset.root)
        missing = (shard for shard in missing_shards(dataset) if shard.name not in there)
        try:
            for shard in _publish(missing, dataset, app, queue):
                sent.add(shard.name)
            break
        except BatchPublishError:  # some of the batch may be there: look again
            if attempt == _PUBLISH_ATTEMPTS:
                raise
    return len(sent)


def _publish(
    missing: Iterable[Shard], dataset: Dataset, app: Celery, queue: str
) -> Iterator[Shard]:
    """Queue shards over one connection, in batches, and yield each."""
    info = dataset.info
    digest = _digest(dataset.root)
    with app.producer_or_acquire() as producer, producer.batch(_BATCH_MESSAGES):
        for shard in missing:
            task = EmbedTask(dataset=dataset.root, tower=info.tower, model=info.model, shard=shard)
            app.send_task(
                EMBED_TASK,
                kwargs=task.to_json(),
                queue=queue,
                producer=producer,
                task_id=f"{digest}.{shard.name}.{uuid.uuid4().hex[:8]}",
                argsrepr="",  # Celery would repeat the arguments in the headers
                kwargsrepr="",
            )
            yield shard


def queued_shards(client: Client, queue: str, dataset_root: str) -> set[str]:
    """Return the names of a dataset's shards that wait in Redis or that a worker holds.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    digest = _digest(dataset_root)
    found = set()
    for raw in itertools.chain(waiting_messages(client, queue), held_messages(client, queue)):
        try:
            owner, _, rest = raw["headers"]["id"].partition(".")
        except (AttributeError, KeyError, TypeError):
            continue  # another program's message, or garbage
        if owner == digest:
            found.add(rest.partition(".")[0])
    return found


def _digest(dataset_root: str) -> str:
    """Return what begins the message ids of a dataset's shards."""
    return blake2b(dataset_root.encode(errors="surrogateescape"), digest_size=6).hexdigest()
