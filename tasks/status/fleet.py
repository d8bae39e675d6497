"""A fleet as its operator sees it: the workers that live, their queues, and what they refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict
from typing import Any

from redis.exceptions import RedisError

from clipfleet.architectures import TOWERS, Tower
from clipfleet.messages import queue_name
from clipfleet.settings import Settings
from clipfleet.storage.plan.jobs import Job
from clipfleet.tasks.broker.deferred import deferred_length
from clipfleet.tasks.broker.queue_stats import held_length, lengths_by_priority
from clipfleet.tasks.broker.redis_client import Client, connect, unreachable
from clipfleet.tasks.broker.refusals import Refusal, Refusals
from clipfleet.tasks.status.own_refusals import refusal_lines
from clipfleet.tasks.worker.presence import Presence, Presences
from clipfleet.validation import printable


class Fleet:
    """A fleet at the last `refresh`.

    `workers` are those that live. `queues` counts the messages that wait, by tower and priority (0
    is taken first); `held` those that workers hold, `deferred` those that wait for a dataset
    that cannot be written now.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.workers: list[Presence] = []
        self.queues: dict[Tower, dict[int, int]] = {}
        self.held: dict[Tower, int] = {}
        self.deferred: dict[Tower, int] = {}
        self.refusals: list[Refusal] = []

    def refresh(self) -> None:
        """Ask Redis again.

        Raises:
            BrokerError: Redis does not answer.
        """
        settings = self._settings
        try:
            with connect(settings.redis_url) as client:
                self._read(client, settings.queue_prefix)
        except (RedisError, OSError) as error:
            raise unreachable(settings.redis_url, error) from error

    def _read(self, client: Client, prefix: str) -> None:
        self.workers = Presences(client, prefix).all()
        for tower in TOWERS:
            queue = queue_name(tower, prefix)
            self.queues[tower] = lengths_by_priority(client, queue)
            self.held[tower] = held_length(client, queue)
            self.deferred[tower] = deferred_length(client, queue)
        self.refusals = Refusals(client, prefix).all()

    def to_json(self) -> dict[str, Any]:
        """Return the fleet in JSON's types."""
        return {
            "workers": [asdict(worker) for worker in self.workers],
            "queues": {
                tower: {
                    "waiting": {str(step): count for step, count in lengths.items()},
                    "held": self.held[tower],
                    "deferred": self.deferred[tower],
                }
                for tower, lengths in self.queues.items()
            },
            "refusals": [{"message": r.message, "reason": r.reason} for r in self.refusals],
        }

    def lines(self) -> list[str]:
        """Return the fleet as lines of text."""
        queues = [line for tower in self.queues for line in self._queue_line(tower)]
        refused = refusal_lines(self.refusals)
        return [self.head(), *map(worker_line, self.workers), *queues, *refused]

    def head(self) -> str:
        """Return the fleet in one line."""
        rate = sum(worker.items_per_s for worker in self.workers)
        waiting = sum(sum(lengths.values()) for lengths in self.queues.values())
        held = sum(self.held.values())
        return (
            f"{len(self.workers):,} workers, {rate:,.0f} items/s; {waiting:,} messages wait, "
            f"{held:,} are held"
        )

    def _queue_line(self, tower: Tower) -> list[str]:
        lengths, held, deferred = self.queues[tower], self.held[tower], self.deferred[tower]
        if not (lengths or held or deferred):
            return []
        steps = ", ".join(f"priority {step}: {count:,}" for step, count in lengths.items())
        later = f", {deferred:,} deferred" if deferred else ""
        return [f"  queue {tower}: {steps or 'none wait'}; {held:,} held{later}"]


def read_fleet(settings: Settings) -> Fleet:
    """Return the fleet of a Redis.

    Raises:
        BrokerError: Redis does not answer.
    """
    fleet = Fleet(settings)
    fleet.refresh()
    return fleet


def running_items(
    workers: Iterable[Presence], names: Collection[str], committed: Collection[str], job: Job | None
) -> int:
    """Return how many items of a dataset, or of one job, are done in shards without a record.

    `names` are the dataset's names in messages.
    """
    done = {
        shard.name: shard.done
        for worker in workers
        for shard in worker.running
        if shard.dataset in names and shard.name not in committed
    }
    return sum(n for name, n in done.items() if job is None or name.startswith(f"{job.id}-"))


def worker_line(worker: Presence) -> str:
    """Return a worker as a line of text."""
    device = worker.gpu or worker.runtime
    last = f", {worker.shard}" if worker.shard else ", no shard yet"
    items = f"{worker.items:,} items, {worker.items_per_s:,.0f}/s"
    return printable(f"  {worker.worker}: {device}, {items}{last}")
