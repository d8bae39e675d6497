"""The metrics of a fleet's queues, which `clipfleet metrics` serves also while no worker runs."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from clipfleet.architectures import TOWERS
from clipfleet.messages import queue_name
from clipfleet.settings import Settings
from clipfleet.tasks.broker.deferred import deferred_length
from clipfleet.tasks.broker.queue_stats import held_length, queue_length, some_messages
from clipfleet.tasks.broker.redis_client import Client, connect, unreachable
from clipfleet.tasks.broker.refusals import Refusals
from clipfleet.tasks.metrics.server import serve_metrics

_SAMPLE_MESSAGES = 20  # of each list, whose items are counted
_TIMEOUT_S = 5.0  # of Redis: Prometheus waits for 10 s

log = logging.getLogger(__name__)


def serve_queue_metrics(settings: Settings, stop: threading.Event) -> None:
    """Serve the metrics of the queues until `stop` is set.

    Raises:
        UsageError: The port is taken, or the address is not this machine's.
        SettingsError: The URL of Redis is wrong.
    """
    with connect(settings.redis_url, timeout_s=_TIMEOUT_S) as client:
        registry = CollectorRegistry()
        registry.register(QueueCollector(client, settings))
        with serve_metrics(registry, settings):
            stop.wait()


class QueueCollector(Collector):
    """Reads the queues of both towers when Prometheus asks."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that Redis is not asked before Prometheus asks."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; without an answer of Redis, only that it does not answer."""
        try:
            found = [*self._queues(), self._refused()]
        except (RedisError, OSError) as error:
            log.warning(str(unreachable(self._settings.redis_url, error)))
            found = []
        up = 1 if found else 0
        yield GaugeMetricFamily("clipfleet_redis_up", "Whether Redis answers: 1 or 0.", value=up)
        yield from found

    def _queues(self) -> Iterator[Metric]:
        messages = GaugeMetricFamily(
            "clipfleet_queue_messages",
            "Messages of a tower's queue: they wait, workers hold them, or their dataset cannot be "
            "written now.",
            labels=("tower", "state"),
        )
        items = GaugeMetricFamily(
            "clipfleet_queue_items",
            "Items in these messages, estimated from some of them.",
            labels=("tower",),
        )
        for tower in TOWERS:
            queue = queue_name(tower, self._settings.queue_prefix)
            counts = {
                "waiting": queue_length(self._client, queue),
                "held": held_length(self._client, queue),
                "deferred": deferred_length(self._client, queue),
            }
            for state, number in counts.items():
                messages.add_metric((tower, state), number)
            mean = _mean_items(some_messages(self._client, queue, _SAMPLE_MESSAGES))
            items.add_metric((tower,), mean * sum(counts.values()))
        yield messages
        yield items

    def _refused(self) -> Metric:
        refusals = Refusals(self._client, self._settings.queue_prefix)
        return GaugeMetricFamily(
            "clipfleet_refused_messages",
            "Refused messages that `clipfleet status` shows.",
            value=refusals.count(),
        )


def _mean_items(messages: Iterable[Any]) -> float:
    counts = [items_of(message) for message in messages]
    return sum(counts) / len(counts) if counts else 1.0


def items_of(message: Any) -> int:
    """Return the number of items in a message of Redis: of a shard, or single ones.

    1 for a message that is neither: a worker will refuse it.
    """
    try:
        arguments, keywords, *_ = json.loads(base64.b64decode(message["body"]))
        size = keywords["shard"]["size"] if "shard" in keywords else len(arguments[0])
        return max(1, int(size))
    except (LookupError, TypeError, ValueError):
        return 1
