"""Refusals: the messages that workers dropped, and why, for `clipfleet status` to show."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache

from redis.exceptions import RedisError

from clipfleet.settings import Settings
from clipfleet.validation import printable
from tasks.broker import Client, connect

MAX_REFUSALS = 1000  # kept in Redis, of each kind; further ones are in the logs only
KEPT_S = 7 * 24 * 3600
MAX_MESSAGE_LENGTH = 300  # characters of what names a message
MAX_REASON_LENGTH = 500
MAX_DATASET_BYTES = 4096  # of its JSON: what is longer is no place, on a disk or in a store

MAX_LOGGED = 100  # refusals in a minute
_MINUTE_S = 60.0

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
        """Keep a refusal; the same shard's again replaces it."""
        # Single items have no name that tells one refusal from another.
        unique = "" if refusal.planned else f"\n{uuid.uuid4().hex}"
        field = f"{refusal.dataset}\n{refusal.message}{unique}"
        key = self._key if refusal.planned else self._items_key
        try:
            if self._is_full(key):
                return
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hset(key, _bytes(field), _json(asdict(refusal)))
                pipe.expire(key, KEPT_S)
                pipe.execute()
        except RedisError as error:
            # Worth no failed shard: the plan still has what the message named.
            told = {"reason": str(error), "refusal": asdict(refusal)}
            log.warning("refusal not recorded", extra=told)

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
    if not all(isinstance(text, str) for text in told):
        return None
    return replace(found, message=printable(found.message), reason=printable(found.reason))


def _json(value: object) -> bytes:
    return _bytes(json.dumps(value, ensure_ascii=False))


def _bytes(text: str) -> bytes:
    """Return UTF-8; half a surrogate pair, which a path or JSON may hold, as JSON escapes it."""
    return text.encode(errors="backslashreplace")


class Minute:
    """Counts what comes in a minute; for many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began_s = float("-inf")
        self._count = 0

    def count(self) -> int:
        """Count one more, and return how many came in this minute."""
        with self._lock:
            now_s = self._clock()
            if now_s - self._began_s >= _MINUTE_S:
                self._began_s, self._count = now_s, 0
            self._count += 1
            return self._count


_minute = Minute()
_client = lru_cache(maxsize=1)(connect)  # of this process: a connection for each were a flood, too


def refuse(
    settings: Settings,
    message: str,
    dataset: str,
    *,
    reason: str,
    planned: bool = True,
    level: int = logging.ERROR,
) -> None:
    """Log and record that a message is dropped, or items of one; see `Refusal`.

    However many come, and whatever is in them: the log has the first of each minute, Redis the
    first of all, each cut to a length.
    """
    refusal = Refusal(
        message=message[:MAX_MESSAGE_LENGTH],
        dataset=dataset if len(_json(dataset)) <= MAX_DATASET_BYTES else "",
        reason=reason[:MAX_REASON_LENGTH],
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        planned=planned,
    )
    _log(refusal, level)
    Refusals(_client(settings.redis_url), settings.queue_prefix).record(refusal)


def _log(refusal: Refusal, level: int) -> None:
    if not log.isEnabledFor(level):
        return
    count = _minute.count()
    if count <= MAX_LOGGED:
        told = {"refused": refusal.message, "dataset": refusal.dataset, "reason": refusal.reason}
        log.log(level, "message refused", extra=told)
    elif count == MAX_LOGGED + 1:
        log.error("more messages are refused than are logged", extra={"a_minute": MAX_LOGGED})
