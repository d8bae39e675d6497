"""Enqueueing: find the shards of a dataset that are in Redis, and queue the missing ones.

A queue holds a limited number of shards; the workers queue the others when there is room
(`clipfleet.tasks.submit.feed`).
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from celery import Celery
from kombu.exceptions import BatchPublishError, OperationalError  # type: ignore[attr-defined]
from redis.exceptions import LockError, RedisError
from redis.lock import Lock

from clipfleet.errors import BrokerError
from clipfleet.messages import EMBED_TASK, EmbedTask, Shard, queue_name
from clipfleet.settings import Settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.filesystem.locations import same_location
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import Queued, read_queued, write_queued
from clipfleet.storage.plan.jobs import jobs
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.broker_url import redacted
from clipfleet.tasks.broker.queue_stats import held_messages, waiting_messages
from clipfleet.tasks.broker.redis_client import Client, connect, unreachable
from clipfleet.tasks.broker.refusals import Refusals
from clipfleet.tasks.max_failed import FailureCounts
from clipfleet.tasks.submit.lock import LOCK_S, dataset_digest, hold_lock, queueing_lock
from clipfleet.tasks.tracing import trace_headers

BATCH_MESSAGES = 500  # per round trip
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class EnqueueResult:
    """How many shards were queued, and how many wait because the queue is full."""

    queued: int
    later: int


def queue_missing(dataset: Dataset, settings: Settings) -> EnqueueResult:
    """Queue the planned shards that are neither done nor in Redis, as far as there is room.

    Waits while another process queues shards of this dataset.

    Raises:
        BrokerError: Redis does not answer, or loses what is queued; another call continues.
    """
    sent: set[str] = set()
    with broker_errors(settings), connect(settings.redis_url) as client:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                waiting = _queue_missing(dataset, client, settings, sent)
                break
            except (BatchPublishError, LockError):  # some are queued, or all are lost: look again
                if attempt == _ATTEMPTS:
                    raise
    return EnqueueResult(queued=len(sent), later=waiting)


def _queue_missing(dataset: Dataset, client: Client, settings: Settings, sent: set[str]) -> int:
    """Queue shards up to the limit, add their names to `sent`; return how many are left."""
    queue, name = queue_of(dataset, settings), name_in_messages(dataset)
    lock = queueing_lock(client, queue, name)
    with hold_lock(lock, wait=True):
        refusals = Refusals(client, settings.queue_prefix)
        for root in {name, dataset.root}:
            refusals.forget(root)
        planned = jobs(dataset)
        limit = _begin_limit(dataset, settings)  # before a worker gets a shard
        FailureCounts(client, settings.queue_prefix).forget(name, [job.id for job in planned])
        in_redis = shards_in_redis(client, queue)
        queued_before = in_redis.get(dataset_digest(name), set())
        lock.reacquire()
        missing = [s for s in missing_shards(dataset, planned) if s.name not in queued_before]
        lock.reacquire()
        now, rest = split_by_room(missing, in_redis, settings)
        sent.update(shard.name for shard in publish(now, dataset, name, settings, lock))
        if planned:
            last_job = planned[-1].id
            rest_name = first_name(rest)
            state = Queued(
                queue=queue, dataset=name, last_job=last_job, rest=rest_name, max_failed=limit
            )
            write_queued(dataset, state)
        return len(rest)


def _begin_limit(dataset: Dataset, settings: Settings) -> str | None:
    """Write the limit of failed items into the dataset, if it has another one; return it."""
    before = read_queued(dataset)
    if before is None:
        return settings.max_failed
    limit = settings.max_failed or before.max_failed
    write_queued(dataset, replace(before, max_failed=limit))
    return limit


def split_by_room(
    shards: Sequence[Shard], in_redis: Mapping[str, Collection[str]], settings: Settings
) -> tuple[Sequence[Shard], Sequence[Shard]]:
    """Return the shards for which a queue has room, and the shards that must wait.

    The workers' reconcilers queue the latter; where reconciling is off, there is no limit.
    """
    if not settings.reconcile_interval_s:
        return shards, []
    room = max(0, settings.max_queued_shards - sum(map(len, in_redis.values())))
    return shards[:room], shards[room:]


def later(shards: int) -> str:
    """Return the end of a sentence about shards that the workers will queue; "" for none."""
    return f"; the workers queue {shards:,} more when there is room" if shards else ""


def first_name(rest: Sequence[Shard]) -> str | None:
    """Return the name of the first shard, if there is one."""
    return rest[0].name if rest else None


def queue_of(dataset: Dataset, settings: Settings) -> str:
    """Return the queue of a dataset's tower and of this fleet."""
    return queue_name(dataset.info.tower, settings.queue_prefix)


def name_in_messages(dataset: Dataset) -> str:
    """Return a dataset's name in messages: that of its first messages, if it is still valid.

    A message's id contains a digest of the name, so one dataset must keep one name.
    """
    state = read_queued(dataset)
    if state is not None and same_location(state.dataset, dataset.root):
        return state.dataset
    return dataset.root


def publish(
    shards: Iterable[Shard], dataset: Dataset, name: str, settings: Settings, lock: Lock
) -> Iterator[Shard]:
    """Queue shards over one connection, renew the lock after each batch, and yield each shard.

    Raises:
        redis.exceptions.LockError: Redis lost its data meanwhile, with the queued shards, or this
            process was suspended until its lock expired.
        kombu.exceptions.BatchPublishError, OperationalError: Not all were queued.
    """
    queue, info = queue_of(dataset, settings), dataset.info
    app = make_app(settings)
    headers = trace_headers(settings)
    try:
        with app.producer_or_acquire() as producer, producer.batch(BATCH_MESSAGES):
            for count, shard in enumerate(shards, start=1):
                task = EmbedTask(dataset=name, tower=info.tower, model=info.model, shard=shard)
                send(app, producer, task, queue, headers=headers)
                yield shard
                if count % BATCH_MESSAGES == 0:
                    lock.reacquire()
        lock.reacquire()
    finally:
        app.close()


def send(
    app: Celery,
    producer: Any,
    task: EmbedTask,
    queue: str,
    *,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Queue a shard over a producer's connection; `headers` go with Celery's."""
    app.send_task(
        EMBED_TASK,
        kwargs=task.to_json(),
        queue=queue,
        producer=producer,
        task_id=f"{dataset_digest(task.dataset)}.{task.shard.name}.{uuid.uuid4().hex[:8]}",
        headers=dict(headers or {}),
        argsrepr="",  # Celery would repeat the arguments in the headers
        kwargsrepr="",
    )


def shards_in_redis(client: Client, queue: str) -> dict[str, set[str]]:
    """Return the names of the shards in a queue, waiting or held, by their dataset's digest.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    found: dict[str, set[str]] = {}
    for raw in itertools.chain(waiting_messages(client, queue), held_messages(client, queue)):
        try:
            owner, _, rest = raw["headers"]["id"].partition(".")
        except (AttributeError, KeyError, TypeError):
            continue  # not a message of clipfleet
        if rest:
            found.setdefault(owner, set()).add(rest.partition(".")[0])
    return found


@contextmanager
def broker_errors(settings: Settings) -> Iterator[None]:
    """Turn the errors of Redis and of Celery's transport into BrokerError."""
    try:
        yield
    except LockError as error:
        raise BrokerError(
            f"Redis at {redacted(settings.redis_url)} forgot that this process queues shards: it "
            "lost its data (give it an append-only file: appendonly yes), or this process was "
            f"suspended for more than {LOCK_S} s; run again"
        ) from error
    except (RedisError, OperationalError, BatchPublishError, OSError) as error:
        raise unreachable(settings.redis_url, error) from error
