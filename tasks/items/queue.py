"""The queue of single items, for producers that have clipfleet installed.

A producer that has only Celery asks Redis for the length itself, see examples/queue_items.py.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress

from redis.exceptions import NoPermissionError

from clipfleet.architectures import TOWERS, Tower
from clipfleet.errors import QueueFullError, UsageError
from clipfleet.messages import EMBED_ITEMS_TASK, queue_name
from clipfleet.settings import Settings, load_settings
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.deferred import deferred_length
from clipfleet.tasks.broker.queue_stats import queue_length
from clipfleet.tasks.broker.redis_client import connect, evicting_policy, eviction_reason
from clipfleet.tasks.submit.enqueue import broker_errors
from clipfleet.workers.closing import Closing

_FIRST_WAIT_S = 0.05
_MAX_WAIT_S = 2.0


class ItemQueue(Closing):
    """The queue of a tower, "img" or "txt", for a producer of single items; a context manager.

        with clipfleet.ItemQueue("txt") as queue:
            queue.put([{"id": "a", "text": "a red bicycle"}], wait_s=60)

    At most `settings.max_queued_messages` messages wait in the queue. Redis is that of
    `settings.redis_url`. Without `settings`, those of `clipfleet.load_settings()` are used.

    Raises:
        UsageError: There is no such tower.
    """

    def __init__(self, tower: Tower, *, settings: Settings | None = None) -> None:
        if tower not in TOWERS:
            raise UsageError(f"there is no tower {tower!r}: expected one of {', '.join(TOWERS)}")
        self._settings = settings = settings or load_settings()
        self._name = queue_name(tower, settings.queue_prefix)
        self._client = connect(settings.redis_url)
        self._app = make_app(settings)
        self._may_evict = not settings.allow_eviction  # unknown yet

    def put(
        self,
        items: Iterable[Mapping[str, str]],
        *,
        dataset: str | None = None,
        wait_s: float = 0.0,
    ) -> None:
        """Queue items, `{"id", "uri"}` of images or `{"id", "text"}`, as one message.

        A worker writes them into `dataset` in its output folder, or into its dataset of single
        items, `items-img` or `items-txt`. While the queue is full, this waits for up to `wait_s`
        seconds. Several producers that find room at once all use it: the queue may then hold one
        message more for each.

        Raises:
            UsageError: `items` is not a list of dictionaries; nothing was queued.
            QueueFullError: The queue is still full; nothing was queued.
            BrokerError: Redis does not answer, or is out of memory. Nothing was queued, unless
                the connection broke during the answer; an item queued twice is written once.
        """
        message = _message(items)
        with broker_errors(self._settings):
            if self._may_evict:
                self._warn_of_eviction()
            self._wait_for_room(wait_s)
            self._app.send_task(
                EMBED_ITEMS_TASK,
                args=[message],
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
            return self._length()

    def close(self) -> None:
        """Close the connections to Redis."""
        self._client.close()
        self._app.close()

    def _warn_of_eviction(self) -> None:
        """Warn, once, of a Redis that deletes messages when it is full."""
        with suppress(NoPermissionError):  # a producer's user may be allowed to queue only
            policy = evicting_policy(self._client)
            if policy:
                reason = eviction_reason(self._settings.redis_url, policy)
                warnings.warn(reason, RuntimeWarning, stacklevel=3)
        self._may_evict = False

    def _wait_for_room(self, wait_s: float) -> None:
        deadline_s = time.monotonic() + wait_s
        limit = self._settings.max_queued_messages
        pause_s = _FIRST_WAIT_S
        while (length := self._length()) >= limit:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise self._full(length, limit, wait_s)
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))  # not all at once
            pause_s = min(2 * pause_s, _MAX_WAIT_S)

    def _length(self) -> int:
        return queue_length(self._client, self._name) + deferred_length(self._client, self._name)

    def _full(self, length: int, limit: int, wait_s: float) -> QueueFullError:
        waited = f" after {wait_s:g} s" if wait_s else ""
        message = (
            f"queue {self._name} is full{waited}: {length:,} messages wait, {limit:,} may. Nothing "
            "was queued: try again when workers have taken some, start more of them, or raise "
            "CLIPFLEET_MAX_QUEUED_MESSAGES"
        )
        return QueueFullError(message, length=length, limit=limit)


def _message(items: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    found = list(items)
    if not all(isinstance(item, Mapping) for item in found):  # a mapping gives its keys
        raise UsageError(
            f'put takes a list of items such as {{"id": "a", "text": "…"}}: got {items!r:.200}'
        )
    return [dict(item) for item in found]
