"""Refusals: the messages that workers dropped, with the reasons, for `clipfleet status`."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from redis.exceptions import RedisError

from clipfleet.messages import queue_name
from clipfleet.settings import Settings
from clipfleet.tasks.broker.redis_client import Client, connect
from clipfleet.validation import printable

MAX_REFUSALS = 1000  # newest refusals kept in Redis, for shards and for other messages each
KEPT_S = 7 * 24 * 3600
MAX_MESSAGE_LENGTH = 300  # characters of the message's name
MAX_REASON_LENGTH = 500  # characters

MAX_LOGGED = 100  # refusals per minute logged as ERROR; further ones are logged as DEBUG
_MINUTE_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A dropped message: `message` names it; `dataset` is "" if the message names none.

    `queue` is that of the worker; "" in a refusal of an earlier version.
    """

    message: str
    dataset: str
    reason: str
    time: str  # ISO 8601, UTC
    planned: bool = True  # a shard, which `resume` queues again; False: single items
    queue: str = ""


class Refusals:
    """The refusals of a fleet: a list of shards in Redis, and a list of all other messages.

    Each list has its own limit, so that wrong single items push out no refused shard.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._shards, self._others = f"{prefix}.refused.shards", f"{prefix}.refused.others"

    def record(self, refusal: Refusal) -> None:
        """Add a refusal, and keep the newest `MAX_REFUSALS` of its kind."""
        key = self._shards if refusal.planned else self._others
        with self._client.pipeline(transaction=False) as pipe:
            pipe.lpush(key, json.dumps(asdict(refusal)))
            pipe.ltrim(key, 0, MAX_REFUSALS - 1)
            pipe.expire(key, KEPT_S)
            pipe.execute()

    def all(self) -> list[Refusal]:
        """Return all refusals in Redis, oldest first."""
        kept = [
            *self._client.lrange(self._shards, 0, -1),
            *self._client.lrange(self._others, 0, -1),
        ]
        refusals = [Refusal(**json.loads(entry)) for entry in reversed(kept)]
        return sorted(refusals, key=lambda refusal: refusal.time)

    def count(self) -> int:
        """Return how many refusals are in Redis."""
        return int(self._client.llen(self._shards)) + int(self._client.llen(self._others))

    def shards_of(self, dataset: str) -> set[str]:
        """Return the names of a dataset's refused shards."""
        named = (r.message.partition(" ") for r in self.all() if r.dataset == dataset)
        return {name for kind, _, name in named if kind == "shard"}

    @property
    def full(self) -> bool:
        """Whether refusals of shards may have been dropped from the list."""
        return int(self._client.llen(self._shards)) >= MAX_REFUSALS

    def forget(self, dataset: str) -> None:
        """Delete the refusals of a dataset's shards, because the shards are queued again."""
        kept: list[Any] = self._client.lrange(self._shards, 0, -1)
        for entry in kept:
            if Refusal(**json.loads(entry)).dataset == dataset:
                self._client.lrem(self._shards, 0, entry)


_client = lru_cache(maxsize=1)(connect)  # one connection per process
_logged: deque[float] = deque(maxlen=MAX_LOGGED)  # monotonic seconds of the last log lines


def refuse(
    settings: Settings, message: str, dataset: str, *, reason: str, planned: bool = True
) -> None:
    """Log and record that a message, or some of its items, is dropped; see `Refusal`."""
    refusal = Refusal(
        message=printable(message[:MAX_MESSAGE_LENGTH]),
        dataset=dataset,
        reason=printable(reason[:MAX_REASON_LENGTH]),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        planned=planned,
        queue=queue_name(settings.tower, settings.queue_prefix) if settings.tower else "",
    )
    fields = {"refused": refusal.message, "dataset": refusal.dataset, "reason": refusal.reason}
    log.log(_level(), "message refused", extra=fields)
    try:
        Refusals(_client(settings.redis_url), settings.queue_prefix).record(refusal)
    except RedisError as error:  # the log has it, and the plan still has the shard
        log.warning("refusal not recorded", extra={**fields, "error": str(error)})


def _level() -> int:
    """Return the log level of a refusal: ERROR for the first `MAX_LOGGED` of a minute."""
    now_s = time.monotonic()
    if len(_logged) == MAX_LOGGED and now_s - _logged[0] < _MINUTE_S:
        return logging.DEBUG
    _logged.append(now_s)
    return logging.ERROR
