"""Queueing: which shards of a dataset are in Redis, and putting there what is not.

A queue holds a limited number of shards; the workers queue the others when there is room
(`clipfleet.tasks.submit.feed`).

One process at a time queues shards of a dataset: a short lock in Redis says so. It is a
courtesy, not what anything leans on: shards that are queued twice are embedded once more,
and committed once.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
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
from clipfleet.storage.plan.reader import jobs
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.redis_client import (
    Client,
    connect,
    held_messages,
    redacted,
    unreachable,
    waiting_messages,
)
from clipfleet.tasks.broker.refusals import Refusals

LOCK_S = 10  # whoever queues renews it from a thread; a killed one's is gone after so long

BATCH_MESSAGES = 500  # a round trip
_ATTEMPTS = 3
_PATIENCE_S = 10.0  # whoever waits for the lock longer is told so, once
_SHOWN_LENGTH = 150  # characters of who holds it

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Queueing:
    """How many shards were queued, and for how many the queue had no room."""

    queued: int
    later: int


def queue_missing(dataset: Dataset, settings: Settings) -> Queueing:
    """Queue the planned shards that are neither done nor in Redis, as far as there is room.

    Waits while another process queues shards of this dataset.

    Raises:
        BrokerError: Redis does not answer, or loses what is queued; calling again goes on.
    """
    sent: set[str] = set()
    with broker_errors(settings), connect(settings.redis_url) as client:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                waiting = _queue_missing(dataset, client, settings, sent)
                break
            except (BatchPublishError, LockError):  # some may be there, or gone: look again
                if attempt == _ATTEMPTS:
                    raise
    return Queueing(queued=len(sent), later=waiting)


def _queue_missing(dataset: Dataset, client: Client, settings: Settings, sent: set[str]) -> int:
    """Queue what there is room for, note it in `sent`, and return how many are left."""
    queue, name = queue_of(dataset, settings), name_in_messages(dataset)
    lock = queueing_lock(client, queue, name)
    with held(lock, wait=True):
        refusals = Refusals(client, settings.queue_prefix)
        for root in {name, dataset.root}:
            refusals.forget(root)
        planned = jobs(dataset)
        in_redis = all_in_redis(client, queue)
        there = in_redis.get(digest(name), set())
        lock.reacquire()
        missing = [s for s in missing_shards(dataset, planned) if s.name not in there]
        lock.reacquire()
        now, rest = split_by_room(missing, in_redis, settings)
        sent.update(shard.name for shard in publish(now, dataset, name, settings, lock))
        if planned:
            told = Queued(queue=queue, dataset=name, last_job=planned[-1].id, rest=first_name(rest))
            write_queued(dataset, told)
        return len(rest)


def split_by_room(
    shards: Sequence[Shard], in_redis: Mapping[str, Collection[str]], settings: Settings
) -> tuple[Sequence[Shard], Sequence[Shard]]:
    """Return the shards for which a queue has room, and those that must wait for it.

    It is the workers' looks that queue the latter: without them there is room for all.
    """
    if not settings.reconcile_interval_s:
        return shards, []
    room = max(0, settings.max_queued_shards - sum(map(len, in_redis.values())))
    return shards[:room], shards[room:]


def later(shards: int) -> str:
    """Return in words that the workers queue so many shards; nothing if there are none."""
    return f"; the workers queue {shards:,} more when there is room" if shards else ""


def first_name(rest: Sequence[Shard]) -> str | None:
    """Return the name of the first of some shards, if there are any."""
    return rest[0].name if rest else None


def queueing_lock(client: Client, queue: str, name: str) -> Lock:
    """Return the lock of who queues shards of a dataset; `name` is as messages have it."""
    key = f"{queue}.queueing.{digest(name)}"
    return Lock(client, key, timeout=LOCK_S, thread_local=False)


def queue_of(dataset: Dataset, settings: Settings) -> str:
    """Return the queue of a dataset's tower and of this fleet."""
    return queue_name(dataset.info.tower, settings.queue_prefix)


def name_in_messages(dataset: Dataset) -> str:
    """Return how messages name a dataset: as the first did, if that leads to this place.

    A message's id has a digest of it, so that a dataset under two names would be queued twice.
    """
    told = read_queued(dataset)
    if told is not None and same_location(told.dataset, dataset.root):
        return told.dataset
    return dataset.root


def publish(
    shards: Iterable[Shard], dataset: Dataset, name: str, settings: Settings, lock: Lock
) -> Iterator[Shard]:
    """Queue shards over one connection, in batches, renew the lock with each, and yield each.

    Raises:
        redis.exceptions.LockError: Redis lost its data meanwhile, and what was queued, or this
            process slept for longer than the lock holds.
        kombu.exceptions.BatchPublishError, OperationalError: Not all were queued.
    """
    queue, info = queue_of(dataset, settings), dataset.info
    app = make_app(settings)
    try:
        with app.producer_or_acquire() as producer, producer.batch(BATCH_MESSAGES):
            for count, shard in enumerate(shards, start=1):
                task = EmbedTask(dataset=name, tower=info.tower, model=info.model, shard=shard)
                send(app, producer, task, queue)
                yield shard
                if count % BATCH_MESSAGES == 0:
                    lock.reacquire()
        lock.reacquire()
    finally:
        app.close()


def send(app: Celery, producer: Any, task: EmbedTask, queue: str) -> None:
    """Queue a shard over a producer's connection."""
    app.send_task(
        EMBED_TASK,
        kwargs=task.to_json(),
        queue=queue,
        producer=producer,
        task_id=f"{digest(task.dataset)}.{task.shard.name}.{uuid.uuid4().hex[:8]}",
        argsrepr="",  # Celery would repeat the arguments in the headers
        kwargsrepr="",
    )


def all_in_redis(client: Client, queue: str) -> dict[str, set[str]]:
    """Return the names of the shards that are in Redis, by their dataset's digest.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    found: dict[str, set[str]] = {}
    for raw in itertools.chain(waiting_messages(client, queue), held_messages(client, queue)):
        try:
            owner, _, rest = raw["headers"]["id"].partition(".")
        except (AttributeError, KeyError, TypeError):
            continue  # another program's message, or garbage
        if rest:
            found.setdefault(owner, set()).add(rest.partition(".")[0])
    return found


def digest(name: str) -> str:
    """Return what begins the message ids of a dataset's shards."""
    return blake2b(name.encode(errors="surrogateescape"), digest_size=6).hexdigest()


@contextmanager
def held(lock: Lock, *, wait: bool) -> Iterator[bool]:
    """Hold a lock; without `wait`, only if nobody has it: the value tells."""
    acquired = _acquire_or_tell(lock) if wait else lock.acquire(blocking=False, token=_holder())
    released = threading.Event()
    renewal = threading.Thread(target=_renew, args=(lock, released), daemon=True)
    try:
        if acquired:
            renewal.start()
        yield acquired
    finally:
        released.set()
        if acquired:
            renewal.join()
            with suppress(RedisError):  # it goes by itself
                lock.release()


def _acquire_or_tell(lock: Lock) -> bool:
    """Wait for a lock, without end: who has it lives, or it would be gone. Tell of a long wait."""
    if lock.acquire(blocking=True, blocking_timeout=_PATIENCE_S, token=_holder()):
        return True
    holder = lock.redis.get(lock.name) or b"a process that just let it go"
    log.warning(
        "another process queues shards of this dataset: %s holds the lock %s in Redis; waiting "
        "until it is done (should it be killed, %d s longer)",
        holder.decode(errors="backslashreplace")[:_SHOWN_LENGTH],
        lock.name,
        LOCK_S,
    )
    return bool(lock.acquire(blocking=True, token=_holder()))


def _holder() -> str:
    """Return a lock's value, which no other process has, and which tells whose it is."""
    return f"{os.getpid()}@{socket.gethostname()} ({uuid.uuid4().hex})"


def _renew(lock: Lock, released: threading.Event) -> None:
    """Keep a lock until it is released; whoever holds it finds out if it is lost."""
    while not released.wait(LOCK_S / 4):
        with suppress(RedisError, OSError):  # Redis may answer the next time
            lock.reacquire()


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
