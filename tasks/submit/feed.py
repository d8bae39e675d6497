"""Feeding: queue the planned shards that wait for room, as the queue gets emptier.

So a plan of any length needs no more of Redis than a full queue, and `submit` does not wait.
"""

from __future__ import annotations

from dataclasses import replace

from clipfleet.settings import Settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import Queued, read_queued, write_queued
from clipfleet.tasks.broker.redis_client import Client
from clipfleet.tasks.submit.enqueue import first_name, publish, shards_in_redis, split_by_room
from clipfleet.tasks.submit.lock import dataset_digest, hold_lock, queueing_lock

LOW = (
    0.5  # fraction of `max_queued_shards`: a fuller queue is not fed, as each feed lists all files
)


def feed(client: Client, dataset: Dataset, queued: Queued, settings: Settings) -> int:
    """Queue the waiting shards of a dataset as far as there is room; return how many.

    Nothing is queued while the queue is more than half full of shards, or while another process
    queues shards of the dataset.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
        DatasetError: The dataset is damaged.
    """
    in_redis = shards_in_redis(client, queued.queue)
    if sum(map(len, in_redis.values())) > LOW * settings.max_queued_shards:
        return 0
    lock = queueing_lock(client, queued.queue, queued.dataset)
    with hold_lock(lock, wait=False) as acquired:
        state = read_queued(dataset) if acquired else None  # another worker may have fed it
        if state is None or state.rest is None:
            return 0
        in_redis = shards_in_redis(client, queued.queue)  # again, now under the lock
        there = in_redis.get(dataset_digest(state.dataset), ())
        rest = [s for s in missing_shards(dataset) if state.waits(s) and s.name not in there]
        lock.reacquire()
        now, later = split_by_room(rest, in_redis, settings)
        count = sum(1 for _ in publish(now, dataset, state.dataset, settings, lock))
        write_queued(dataset, replace(state, rest=first_name(later)))
    return count
