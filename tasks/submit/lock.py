"""The queueing lock: one process at a time queues shards of a dataset.

The lock is in Redis and saves work. Correctness does not depend on it: a shard that is queued
twice is embedded twice and committed once.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b

from redis.exceptions import RedisError
from redis.lock import Lock

from clipfleet.tasks.broker.redis_client import Client

LOCK_S = 10  # a thread of the holder renews the lock; a killed holder's lock expires after this

_LOG_AFTER_S = 10.0  # a longer wait for the lock is logged once
_SHOWN_LENGTH = 150  # characters of the holder's name

log = logging.getLogger(__name__)


def dataset_digest(name: str) -> str:
    """Return the digest of a dataset's name, which its lock and its messages' ids contain."""
    return blake2b(name.encode(errors="surrogateescape"), digest_size=6).hexdigest()


def queueing_lock(client: Client, queue: str, name: str) -> Lock:
    """Return the lock for queueing shards of a dataset; `name` is its name in messages."""
    key = f"{queue}.queueing.{dataset_digest(name)}"
    return Lock(client, key, timeout=LOCK_S, thread_local=False)


@contextmanager
def hold_lock(lock: Lock, *, wait: bool) -> Iterator[bool]:
    """Hold a lock and yield True; without `wait`, yield False if another process holds it."""
    acquired = _wait_for(lock) if wait else lock.acquire(blocking=False, token=_holder())
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
            with suppress(RedisError):  # the lock expires by itself
                lock.release()


def _wait_for(lock: Lock) -> bool:
    """Acquire a lock; wait without limit, because a dead holder's lock expires."""
    if lock.acquire(blocking=True, blocking_timeout=_LOG_AFTER_S, token=_holder()):
        return True
    holder = lock.redis.get(lock.name) or b"a process that just released it"
    log.warning(
        "another process queues shards of this dataset: %s holds the lock %s in Redis; waiting "
        "until it is done (if it is killed, %d s longer)",
        holder.decode(errors="backslashreplace")[:_SHOWN_LENGTH],
        lock.name,
        LOCK_S,
    )
    return bool(lock.acquire(blocking=True, token=_holder()))


def _holder() -> str:
    """Return a value for the lock that is unique and names this process."""
    return f"{os.getpid()}@{socket.gethostname()} ({uuid.uuid4().hex})"


def _renew(lock: Lock, released: threading.Event) -> None:
    """Renew a lock until it is released; its holder's next `reacquire` fails if it is lost."""
    while not released.wait(LOCK_S / 4):
        with suppress(RedisError, OSError):  # Redis may answer the next time
            lock.reacquire()
