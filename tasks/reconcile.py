"""Reconciling: the queue is a hint, and now and then Redis loses a message with its worker."""

from __future__ import annotations

import logging
import time

from redis.exceptions import RedisError

from clipfleet.jobs import queue_name
from clipfleet.settings import Settings
from storage.dataset import Dataset
from tasks.broker import connect, held_length, queue_length, unreachable
from tasks.submit import queue_missing

QUIET_S = 3.0  # an empty queue may be a message between two hands; it is not for so long

log = logging.getLogger(__name__)


class Reconciler:
    """Queues the missing shards of a dataset again when Redis has had none for a while."""

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        self._dataset = dataset
        self._settings = settings
        self._queue = queue_name(dataset.info.tower, settings.queue_prefix)
        self._empty_since_s: float | None = None

    def check(self) -> int:
        """Return how many shards were queued again; to be called every second or so.

        Raises:
            BrokerError: Redis does not answer.
        """
        now_s = time.monotonic()
        try:
            with connect(self._settings.redis_url) as client:
                busy = queue_length(client, self._queue) + held_length(client, self._queue)
        except (RedisError, OSError) as error:
            raise unreachable(self._settings.redis_url, error) from error
        if busy:
            self._empty_since_s = None
            return 0
        if self._empty_since_s is None:
            self._empty_since_s = now_s
        if now_s - self._empty_since_s < QUIET_S:
            return 0
        self._empty_since_s = None
        queued = queue_missing(self._dataset, self._settings)
        if queued:
            log.warning(
                "shards queued again", extra={"dataset": self._dataset.root, "shards": queued}
            )
        return queued
