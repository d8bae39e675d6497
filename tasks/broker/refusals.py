"""Refusals: the messages that workers dropped, and why, for `clipfleet status` to show."""

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

from clipfleet.settings import Settings
from clipfleet.tasks.broker.redis_client import Client, connect
from clipfleet.validation import printable

MAX_REFUSALS = 1000  # kept in Redis, of shards and of other messages each: the newest
KEPT_S = 7 * 24 * 3600
MAX_MESSAGE_LENGTH = 300  # characters of the message's name
MAX_REASON_LENGTH = 500  # characters

MAX_LOGGED = 100  # refusals in a minute at their level; further ones are logged as DEBUG
_MINUTE_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A dropped message: `message` names it; `dataset` is "" if the message names none."""

    message: str
    dataset: str
    reason: str
    time: str  # ISO 8601, UTC
    planned: bool = True  # a shard, which the next submit queues again; single items are not


class Refusals:
    """The refusals of a fleet: a list of shards in Redis, and a list of all other messages.

    Each list has a bound of its own, so that wrong single items push out no refused shard.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._shards, self._others = f"{prefix}.refused.shards", f"{prefix}.refused.others"

    def record(self, refusal: Refusal) -> None:
        """Keep a refusal, and of each kind the newest `MAX_REFUSALS`."""
        key = self._shards if refusal.planned else self._others
        with self._client.pipeline(transaction=False) as pipe:
            pipe.lpush(key, json.dumps(asdict(refusal)))
            pipe.ltrim(key, 0, MAX_REFUSALS - 1)
            pipe.expire(key, KEPT_S)
            pipe.execute()

    def all(self) -> list[Refusal]:
        """Return every refusal that is kept, oldest first."""
        kept = [
            *self._client.lrange(self._shards, 0, -1),
            *self._client.lrange(self._others, 0, -1),
        ]
        refusals = [Refusal(**json.loads(entry)) for entry in reversed(kept)]
        return sorted(refusals, key=lambda refusal: refusal.time)

    def shards_of(self, dataset: str) -> set[str]:
        """Return the names of a dataset's refused shards."""
        named = (r.message.partition(" ") for r in self.all() if r.dataset == dataset)
        return {name for kind, _, name in named if kind == "shard"}

    @property
    def full(self) -> bool:
        """Whether refusals of shards may have been pushed out."""
        return int(self._client.llen(self._shards)) >= MAX_REFUSALS

    def forget(self, dataset: str) -> None:
        """Drop the refusals of a dataset's shards, which are queued again."""
        kept: list[Any] = self._client.lrange(self._shards, 0, -1)
        for entry in kept:
            if Refusal(**json.loads(entry)).dataset == dataset:
                self._client.lrem(self._shards, 0, entry)


_client = lru_cache(maxsize=1)(connect)  # of this process: one connection for all refusals
_logged: deque[float] = deque(maxlen=MAX_LOGGED)  # monotonic seconds, of the last ones


def refuse(
    settings: Settings, message: str, dataset: str, *, reason: str, planned: bool = True
) -> None:
    """Log and record that a message is dropped, or items of one; see `Refusal`."""
    refusal = Refusal(
        message=printable(message[:MAX_MESSAGE_LENGTH]),
        dataset=dataset,
        reason=printable(reason[:MAX_REASON_LENGTH]),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        planned=planned,
    )
    told = {"refused": refusal.message, "dataset": refusal.dataset, "reason": refusal.reason}
    log.log(_level(), "message refused", extra=told)
    try:
        Refusals(_client(settings.redis_url), settings.queue_prefix).record(refusal)
    except RedisError as error:  # a shard is still in the plan; the log has every refusal
        log.warning("refusal not recorded", extra={**told, "error": str(error)})


def _level() -> int:
    """Return the level to log a refusal at: of a flood, only the first of each minute count."""
    now_s = time.monotonic()
    if len(_logged) == MAX_LOGGED and now_s - _logged[0] < _MINUTE_S:
        return logging.DEBUG
    _logged.append(now_s)
    return logging.ERROR
