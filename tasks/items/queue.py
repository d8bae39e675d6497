"""The queue of single items, for producers with clipfleet installed; it is bounded.

    with ItemQueue("txt", settings=load_settings()) as queue:
        queue.put([{"id": "a", "text": "a red bicycle"}], wait_s=60)

A producer with Celery alone checks the length by LLEN, see examples/queue_items.py.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from clipfleet.architectures import Tower
from clipfleet.errors import QueueFullError
from clipfleet.messages import EMBED_ITEMS_TASK, queue_name
from clipfleet.settings import Settings
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.queue_stats import queue_length
from clipfleet.tasks.broker.redis_client import connect
from clipfleet.tasks.submit.enqueue import broker_errors

_FIRST_WAIT_S = 0.05
_MAX_WAIT_S = 2.0


class ItemQueue:
    """A tower's queue, of at most `max_queued_messages` waiting messages; a context manager."""

    def __init__(self, tower: Tower, *, settings: Settings) -> None:
        self._settings = settings
        self._name = queue_name(tower, settings.queue_prefix)
        self._client = connect(settings.redis_url)
        self._app = make_app(settings)

    def put(
        self,
        items: Sequence[Mapping[str, str]],
        *,
        dataset: str | None = None,
        wait_s: float = 0.0,
    ) -> None:
        """Queue items, `{"id", "uri"}` or `{"id", "text"}`, as one message.

        They go into the worker's default dataset of single items, or into `dataset` in its output
        folder. While the queue is full, wait for at most `wait_s`. If several producers find
        room at the same moment, the limit may be exceeded by one message per producer.

        Raises:
            QueueFullError: The queue is still full; nothing was queued.
            BrokerError: Redis does not answer, or is out of memory. Nothing was queued, unless
                the connection broke during the answer; an item queued twice is written once.
        """
        with broker_errors(self._settings):
            self._wait_for_room(wait_s)
            self._app.send_task(
                EMBED_ITEMS_TASK,
                args=[[dict(item) for item in items]],
                kwargs={} if dataset is None else {"dataset": dataset},
                queue=self._name,
                ignore_result=True,
                argsrepr="",  # Celery would repeat the arguments in the headers
                kwargsrepr="",
            )

    def length(self) -> int:
        """Return how many messages wait, of single items and of shards.

        Raises:
            BrokerError: Redis does not answer.
        """
        with broker_errors(self._settings):
            return queue_length(self._client, self._name)

    def close(self) -> None:
        self._client.close()
        self._app.close()

    def __enter__(self) -> ItemQueue:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _wait_for_room(self, wait_s: float) -> None:
        deadline_s = time.monotonic() + wait_s
        limit = self._settings.max_queued_messages
        pause_s = _FIRST_WAIT_S
        while (length := queue_length(self._client, self._name)) >= limit:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise self._full(length, limit, wait_s)
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))  # not all at once
            pause_s = min(2 * pause_s, _MAX_WAIT_S)

    def _full(self, length: int, limit: int, wait_s: float) -> QueueFullError:
        waited = f" after {wait_s:g} s" if wait_s else ""
        message = (
            f"queue {self._name} is full{waited}: {length:,} messages wait, {limit:,} may. Nothing "
            "was queued: try again when workers have taken some, start more of them, or raise "
            "CLIPFLEET_MAX_QUEUED_MESSAGES"
        )
        return QueueFullError(message, length=length, limit=limit)
