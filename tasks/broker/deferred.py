"""Deferred messages: single items whose dataset cannot be written now, in a list of their own.

A worker holds a window of them at most. The others leave the queue, so that shards and the items of
other datasets pass; a worker moves them back after a while.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clipfleet.tasks.broker.queue_stats import elements
from clipfleet.tasks.broker.redis_client import Client

DEFERRED_S = 60.0  # between two returns of a queue's deferred messages
MAX_RETURNED = 10_000  # messages at a time: a new shard waits behind them


def deferred_key(queue: str) -> str:
    """Return the list of a queue's deferred messages."""
    return f"{queue}.deferred"


def defer(client: Client, queue: str, messages: Sequence[str]) -> None:
    """Add messages, in the JSON of the queue; the caller then acknowledges them."""
    client.lpush(deferred_key(queue), *messages)


def bring_back(client: Client, queue: str) -> int:
    """Move the messages to the end of their queue; return how many, 0 if it is too early."""
    key = deferred_key(queue)
    count = min(deferred_length(client, queue), MAX_RETURNED)
    if not count or not client.set(f"{key}.returned", 1, nx=True, px=int(DEFERRED_S * 1000)):
        return 0
    with client.pipeline(transaction=False) as pipe:
        for _ in range(count):
            pipe.lmove(key, queue, "RIGHT", "LEFT")
        return sum(moved is not None for moved in pipe.execute())


def deferred_length(client: Client, queue: str) -> int:
    """Return how many messages of a queue are deferred."""
    return int(client.llen(deferred_key(queue)))


def deferred_messages(client: Client, queue: str) -> Iterator[Any]:
    """Yield a queue's deferred messages."""
    return elements(client, deferred_key(queue))
