"""Conflicts: how many items came with other content than their ids have, for `clipfleet status`."""

from __future__ import annotations

import logging
from functools import lru_cache

from redis.exceptions import RedisError

from clipfleet.settings import Settings
from clipfleet.tasks.broker.redis_client import Client, connect
from clipfleet.tasks.broker.refusals import KEPT_S

log = logging.getLogger(__name__)


class Conflicts:
    """The conflicts of a fleet's streams: a hash in Redis with a count for each dataset.

    An item of a message that is delivered again counts again.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._key = f"{prefix}.conflicts"

    def add(self, dataset: str, count: int) -> None:
        """Add to the count of a dataset; all counts are kept for a week after the last one."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hincrby(self._key, dataset, count)
            pipe.expire(self._key, KEPT_S)
            pipe.execute()

    def count(self, datasets: set[str]) -> int:
        """Return the conflicts of a dataset that has these names."""
        return sum(int(n or 0) for n in self._client.hmget(self._key, sorted(datasets)))


_client = lru_cache(maxsize=1)(connect)  # one connection per process


def count_conflicts(settings: Settings, dataset: str, count: int) -> None:
    """Record conflicts of a dataset in Redis."""
    try:
        Conflicts(_client(settings.redis_url), settings.queue_prefix).add(dataset, count)
    except RedisError as error:  # the log has them
        log.warning("conflicts not counted", extra={"dataset": dataset, "error": str(error)})
