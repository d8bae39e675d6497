"""Refusals: the messages that workers dropped, and why, for `clipfleet status` to show."""

from __future__ import annotations

import json
import logging
import uuid
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
    """A dropped message: `message` names it; `dataset` is "" where none could be told."""

    message: str
    dataset: str
    reason: str
    time: str  # ISO 8601, UTC
    planned: bool = True  # in a plan, and queued again by the next submit; single items are not


class Refusals:
    """The refusals of a fleet: a small hash in Redis of shards, and one of single items.

    Single items come from anybody: however many are refused, those of shards are kept.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._key = f"{prefix}.refusals"
        self._items_key = f"{prefix}.refusals.items"

    def record(self, refusal: Refusal) -> None:
        """Keep a refusal; the same shard's again replaces it. The log has it in any case."""
        short = {**asdict(refusal), "reason": refusal.reason[:_MAX_REASON_LENGTH]}
        # Single items have no name that tells one refusal from another.
        unique = "" if refusal.planned else f"\n{uuid.uuid4().hex}"
        field = f"{refusal.dataset}\n{refusal.message}{unique}"
        key = self._key if refusal.planned else self._items_key
        try:
            if not self._is_full(key):
                # A path, or JSON, may hold half a surrogate pair.
                self._client.hset(key, field.encode(errors="backslashreplace"), json.dumps(short))
                self._client.expire(key, KEPT_S)
        except RedisError as error:
            # Worth no failed shard: the plan still has what the message named.
            log.warning("refusal not recorded", extra={"reason": str(error), "refusal": short})

    def of_dataset(self, dataset: str) -> list[Refusal]:
        """Return the refusals of a dataset, oldest first."""
        return [refusal for refusal in self.all() if refusal.dataset == dataset]

    def of_no_dataset(self) -> list[Refusal]:
        """Return the refusals of messages that named no dataset of this fleet, oldest first."""
        return self.of_dataset("")

    def all(self) -> list[Refusal]:
        """Return every refusal that is kept, oldest first."""
        kept = [*self._client.hvals(self._key), *self._client.hvals(self._items_key)]
        return sorted(filter(None, map(_parse, kept)), key=lambda refusal: refusal.time)

    def shards_of(self, dataset: str) -> set[str]:
        """Return the names of a dataset's refused shards."""
        named = (refusal.message.partition(" ") for refusal in self.of_dataset(dataset))
        return {name for kind, _, name in named if kind == "shard"}

    @property
    def full(self) -> bool:
        """Whether further ones of shards are not kept."""
        return self._is_full(self._key)

    def _is_full(self, key: str) -> bool:
        return int(self._client.hlen(key)) >= MAX_REFUSALS

    def forget(self, dataset: str) -> None:
        """Drop the refusals of a dataset's shards, which are queued again."""
        found = {key: _parse(value) for key, value in self._client.hgetall(self._key).items()}
        fields = [key for key, r in found.items() if r and r.planned and r.dataset == dataset]
        if fields:
            self._client.hdel(self._key, *fields)


def _parse(value: bytes | str) -> Refusal | None:
    try:
        found = Refusal(**json.loads(value))
    except (TypeError, ValueError, RecursionError):
        return None  # garbage
    told = (found.message, found.dataset, found.reason, found.time)
    return found if all(isinstance(text, str) for text in told) else None


def refuse(
    settings: Settings,
    message: str,
    dataset: str,
    *,
    reason: str,
    planned: bool = True,
    level: int = logging.ERROR,
) -> None:
    """Log and record that a message is dropped, or items of one; see `Refusal`."""
    told = {"refused": message, "dataset": dataset, "reason": reason}
    log.log(level, "message refused", extra=told)
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    refusal = Refusal(message=message, dataset=dataset, reason=reason, time=time, planned=planned)
    with connect(settings.redis_url) as client:
        Refusals(client, settings.queue_prefix).record(refusal)
