"""Waiting items: single items whose dataset cannot be written now, for `clipfleet status`.

The worker's child records why; the messages, which are in Redis until their items are written, say
how many.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from redis.exceptions import RedisError

from clipfleet.messages import EMBED_ITEMS_TASK
from clipfleet.storage.filesystem.locations import same_location
from clipfleet.tasks.broker.deferred import deferred_messages
from clipfleet.tasks.broker.queue_stats import held_messages, waiting_messages
from clipfleet.tasks.broker.redis_client import Client, connect
from clipfleet.tasks.broker.refusals import MAX_REASON_LENGTH
from clipfleet.validation import printable

_KEPT_S = 7 * 24 * 3600

_client = lru_cache(maxsize=1)(connect)  # one connection per process


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """How many items of a dataset wait, and what the last attempt to write them met."""

    items: int
    reason: str

    def sentence(self) -> str:
        """Return what waits and why."""
        return f"{self.items:,} single items wait for the dataset: {self.reason}"


def record_waiting(redis_url: str, queue: str, named: str | None, root: str, reason: str) -> None:
    """Record why the items of a dataset wait: at the location `root`, `named` by their messages."""
    record = json.dumps({"root": root, "reason": printable(reason[:MAX_REASON_LENGTH])})
    with suppress(RedisError), _client(redis_url).pipeline(transaction=False) as pipe:  # logged too
        pipe.hset(_key(queue), json.dumps(named), record)
        pipe.expire(_key(queue), _KEPT_S)
        pipe.execute()


def forget_waiting(redis_url: str, queue: str, named: str | None) -> None:
    """Delete the record of a dataset, whose items are written."""
    with suppress(RedisError):  # a record without messages is not shown
        _client(redis_url).hdel(_key(queue), json.dumps(named))


def waiting_items(client: Client, queue: str, root: str) -> list[Waiting]:
    """Return the waiting items of the dataset at a location, for each name of it in messages.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    reasons: dict[str | None, str] = {}
    for name, text in client.hgetall(_key(queue)).items():
        record = json.loads(text)
        if same_location(record["root"], root):
            reasons[json.loads(name)] = record["reason"]
    counts: Counter[str | None] = Counter()
    if reasons:
        for messages in (waiting_messages, held_messages, deferred_messages):
            for raw in messages(client, queue):
                counts.update(dict(_items_of(raw)))
    found = (Waiting(items=counts[name], reason=reason) for name, reason in reasons.items())
    return [waiting for waiting in found if waiting.items]


def _items_of(raw: Any) -> Iterator[tuple[str | None, int]]:
    """Yield the dataset and the number of the items of a message of single items."""
    # Another task's message, or one that a worker will refuse.
    with suppress(LookupError, TypeError, ValueError, AttributeError, RecursionError):
        body = json.loads(base64.b64decode(raw["body"]))
        args, kwargs = (body["args"], body["kwargs"]) if isinstance(body, dict) else body[:2]
        task = body["task"] if isinstance(body, dict) else raw["headers"]["task"]
        named, count = kwargs.get("dataset"), len(args[0])
        if task == EMBED_ITEMS_TASK and isinstance(named, str | None):
            yield named, count


def _key(queue: str) -> str:
    return f"{queue}.waiting"
