"""A step of Celery's consumer: the worker writes its presence to Redis, every second."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from typing import Any

from celery.worker import state
from redis.exceptions import RedisError

from clipfleet.errors import MessageError
from clipfleet.gpus import VISIBLE_VARIABLE
from clipfleet.messages import EMBED_TASK, EmbedTask
from clipfleet.model_card import ModelCard, load_card
from clipfleet.tasks.broker.amqp import settings_of
from clipfleet.tasks.broker.timer_step import TimerStep
from clipfleet.tasks.worker.presence import Presence, Presences, RunningShard
from clipfleet.tasks.worker.watchdog import ChildState, child_states, open_shared

INTERVAL_S = 1.0
_RATE_WINDOW_S = 15.0

log = logging.getLogger(__name__)


class PresenceStep(TimerStep):
    """Writes the presence while the worker takes messages; a worker that stops takes it back."""

    def start_timer(self, consumer: Any) -> Any:
        """Write the presence every second."""
        settings = settings_of(consumer.app)
        own = OwnPresence(consumer.hostname, load_card(str(settings.model))[0])
        channel = consumer.task_consumer.channel
        prefix = settings.queue_prefix
        arguments = (channel, own, open_shared(), prefix)
        return consumer.timer.call_repeatedly(INTERVAL_S, tell, arguments)

    def worker_stops(self, consumer: Any) -> None:
        """Take the presence back; without this it expires."""
        channel = consumer.task_consumer.channel
        prefix = settings_of(consumer.app).queue_prefix
        try:
            with channel.conn_or_acquire() as client:
                Presences(client, prefix).delete(consumer.hostname)
        except (RedisError, *channel.connection_errors):
            log.debug("presence not taken back: it expires")


class OwnPresence:
    """What this worker says of itself."""

    def __init__(self, worker: str, card: ModelCard) -> None:
        self._worker = worker
        self._tower = card.tower
        self._runtime = card.runtime
        visible = os.environ.get(VISIBLE_VARIABLE)
        self._gpu = f"{card.gpu} ({visible})" if card.gpu and visible else card.gpu
        self._shard = self._reason = ""
        self._history: deque[tuple[float, int]] = deque()  # (monotonic seconds, items)

    def log_once(self, error: Exception) -> None:
        """Log why `clipfleet status` does not show this worker, once for each reason in a row."""
        if str(error) != self._reason:
            self._reason = str(error)
            log.warning("presence not written", extra={"reason": self._reason})

    def now(self, children: list[ChildState], requests: list[Any], now_s: float) -> Presence:
        """Return the presence: `requests` are those that the children run."""
        running = running_shards(children, requests)
        if running:
            self._shard = f"{running[-1].dataset} {running[-1].name}"
        items = sum(child.items for child in children)
        self._history.append((now_s, items))
        while self._history[0][0] < now_s - _RATE_WINDOW_S:
            self._history.popleft()
        first_s, first = self._history[0]
        return Presence(
            worker=self._worker,
            host=socket.gethostname(),
            tower=self._tower,
            runtime=self._runtime,
            gpu=self._gpu,
            items=items,
            items_per_s=(items - first) / (now_s - first_s) if now_s > first_s else 0.0,
            shard=self._shard,
            running=tuple(running),
        )


def running_shards(children: list[ChildState], requests: list[Any]) -> list[RunningShard]:
    """Return the shards that children embed; `requests` are Celery's, each with a child's pid."""
    by_pid = {request.worker_pid: request for request in requests if request.name == EMBED_TASK}
    found = []
    for child in children:
        if not child.pid or child.pid not in by_pid:
            continue
        try:
            task = EmbedTask.from_json(by_pid[child.pid].kwargs)
        except MessageError:  # the child refuses it just now
            continue
        done = min(child.in_work, task.shard.size)
        found.append(
            RunningShard(
                dataset=task.dataset, name=task.shard.name, items=task.shard.size, done=done
            )
        )
    return found


def tell(channel: Any, own: OwnPresence, shared: Any, prefix: str) -> None:
    """Write this worker's presence to Redis; if Redis does not answer, the next call may."""
    presence = own.now(child_states(shared), list(state.active_requests), time.monotonic())
    try:
        with channel.conn_or_acquire() as client:
            Presences(client, prefix).write(presence)
    except (RedisError, *channel.connection_errors) as error:
        own.log_once(error)
