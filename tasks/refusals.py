"""Refusals: the messages that workers dropped, and why, for `clipfleet status` to show."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

from redis.exceptions import RedisError

from clipfleet.settings import Settings
from tasks.broker import Client, connect

MAX_REFUSALS = 1000  # kept in Redis; further ones are in the logs only
KEPT_S = 7 * 24 * 3600
_MAX_REASON_LENGTH = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A dropped message: `message` names it, within `dataset` where it named one."""

    message: str
    dataset: str
    reason: str
    time: str  # ISO 8601, UTC


class Refusals:
    """The refusals of a fleet: one small hash in Redis."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._key = f"{prefix}.refusals"

    def record(self, refusal: Refusal) -> None:
        """Keep a refusal; the same message's again replaces it. The log has it in any case."""
        short = {**asdict(refusal), "reason": refusal.reason[:_MAX_REASON_LENGTH]}
        field = f"{refusal.dataset}\n{refusal.message}"
        try:
            if int(self._client.hlen(self._key)) < MAX_REFUSALS:
                self._client.hset(self._key, field, json.dumps(short))
                self._client.expire(self._key, KEPT_S)
        except RedisError as error:
            # Worth no failed shard: the plan still has what the message named.
            log.warning("refusal not recorded", extra={"reason": str(error), "refusal": short})

    def of_dataset(self, dataset: str) -> list[Refusal]:
        """Return the refusals of a dataset, oldest first."""
        return [refusal for refusal in self.all() if refusal.dataset == dataset]

    def all(self) -> list[Refusal]:
        """Return every refusal that is kept, oldest first."""
        found = [Refusal(**json.loads(value)) for value in self._client.hvals(self._key)]
        return sorted(found, key=lambda refusal: refusal.time)

    def forget(self, dataset: str) -> None:
        """Drop the refusals of a dataset: its shards are queued again."""
        fields = [key for key in self._client.hkeys(self._key) if _dataset_of(key) == dataset]
        if fields:
            self._client.hdel(self._key, *fields)


def _dataset_of(field: bytes | str) -> str:
    text = field.decode() if isinstance(field, bytes) else field
    return text.rpartition("\n")[0]


def refuse(settings: Settings, message: str, dataset: str, *, reason: str) -> None:
    """Log and record that a message is dropped."""
    log.error("message refused", extra={"refused": message, "dataset": dataset, "reason": reason})
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    refusal = Refusal(message=message, dataset=dataset, reason=reason, time=time)
    with connect(settings.redis_url) as client:
        Refusals(client, settings.queue_prefix).record(refusal)
