"""Measure Redis's memory for a plan 100 times as long as its queue, with and without a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.soak.fleet import SoakRedis
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.broker.queue_stats import queue_length
from clipfleet.tasks.broker.redis_client import connect
from clipfleet.tasks.submit.resume import resume
from clipfleet.tasks.submit.submit import submit

TIMES = 100


def measure_backlog(settings: Settings, folder: Path, limit: int) -> dict[str, Any]:
    """Plan 100 × `limit` shards of one text, with no worker; return bytes of Redis.

    First with the limit, then without one.
    """
    redis = SoakRedis(folder / "backlog")
    shards = TIMES * limit
    items = [Item(id=f"text-{n}", text=f"text {n}") for n in range(shards)]
    changes = {"redis_url": redis.url, "shard_size": 1, "max_queued_shards": limit}
    settings = settings.model_copy(update=changes)
    path = str(folder / "output" / "backlog")
    try:
        empty = _used_bytes(redis.url)
        submit(ListSource(items), path, str(settings.model), settings=settings)
        bounded = _used_bytes(redis.url)
        resume(path, settings=settings.model_copy(update={"max_queued_shards": shards}))
        unbounded = _used_bytes(redis.url)
        with connect(redis.url) as client:
            messages = queue_length(client, "clipfleet.txt")
    finally:
        redis.close()
    return {
        "shards": shards,
        "limit": limit,
        "limited_bytes": bounded - empty,
        "unlimited_bytes": unbounded - empty,
        "bytes_a_message": round((unbounded - empty) / messages),
    }


def _used_bytes(url: str) -> int:
    with connect(url) as client:
        return int(client.info("memory")["used_memory"])
