"""Feeding: planned shards for which a queue had no room are queued when there is some.

So a plan of any length costs Redis no more than a full queue, and `submit` waits for nothing.
"""

from __future__ import annotations

from dataclasses import replace

from clipfleet.settings import Settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import Queued, read_queued, write_queued
from clipfleet.tasks.broker.redis_client import Client
from clipfleet.tasks.submit.enqueue import (
    all_in_redis,
    digest,
    first_name,
    held,
    publish,
    queueing_lock,
    split_by_room,
)

LOW = 0.5  # of a queue's shards; above it nothing is fed, for each time costs a look at all files


def feed(client: Client, dataset: Dataset, queued: Queued, settings: Settings) -> int:
    """Queue the rest of a dataset as far as its queue has room; return how many shards.

    Nothing is done while the queue is more than half full of shards, or while another process
    queues shards of the dataset.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
        DatasetError: The dataset is damaged.
    """
    if queued.rest is None:
        return 0
    there_now = all_in_redis(client, queued.queue).values()
    if sum(map(len, there_now)) > LOW * settings.max_queued_shards:
        return 0
    lock = queueing_lock(client, queued.queue, queued.dataset)
    with held(lock, wait=False) as mine:
        told = read_queued(dataset) if mine else None  # another may have fed it meanwhile
        if told is None or told.rest is None:
            return 0
        in_redis = all_in_redis(client, queued.queue)  # again: what another queued until now
        there = in_redis.get(digest(told.dataset), ())
        rest = [s for s in missing_shards(dataset) if told.waits(s) and s.name not in there]
        lock.reacquire()
        now, later = split_by_room(rest, in_redis, settings)
        count = sum(1 for _ in publish(now, dataset, told.dataset, settings, lock))
        write_queued(dataset, replace(told, rest=first_name(later)))
    return count
