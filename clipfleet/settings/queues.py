"""The settings of Redis and of the queues in it."""

from __future__ import annotations

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

KEY_BYTES = 32  # minimum of a message key: the output size of HMAC-SHA256


class QueueSettings(BaseModel):
    """Redis and queues."""

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """Redis: `redis://`, `rediss://` (TLS) or `redis+socket://`. A URL may hold a password, and
    redis-py's options, as in `?db=3&socket_timeout=5&ssl_ca_certs=/ca.crt`; an option that
    clipfleet cannot use is refused with the reason."""

    queue_prefix: str = "clipfleet"
    """First part of the queues' names. Fleets of different models on one Redis need different
    prefixes."""

    message_key: str | None = Field(default=None, repr=False)
    """Secret of 32 bytes or more. With a key, workers refuse messages without its signature, and
    every producer needs the key."""

    message_key_old: str | None = Field(default=None, repr=False)
    """Previous key, which workers accept as well during a change of keys."""

    visibility_timeout_s: PositiveInt = 10
    """Seconds until the messages of a dead worker return to the queue. A living worker renews this
    time, so a shard may take longer. Smaller values recover sooner; larger values tolerate longer
    pauses of a worker."""

    reconcile_interval_s: NonNegativeFloat = 10.0
    """Seconds between two searches for shards that are neither done nor in Redis. One worker of a
    fleet searches and queues such shards again. Smaller values recover sooner and read the dataset
    more often. 0: no search."""

    max_queued_shards: PositiveInt = 5_000
    """Maximum of shards in a tower's queue; each takes about 1 kB of Redis. Workers queue the rest
    of a plan at each search for lost shards. Without a search, the queue has no limit."""

    max_queued_messages: PositiveInt = 10_000
    """Messages of single items in a tower's queue at which `ItemQueue` reports a full queue. Larger
    values bridge longer pauses of the workers and take more memory of Redis."""

    allow_eviction: bool = False
    """Also use a Redis that deletes queued messages when it is full (`maxmemory-policy
    allkeys-…`). Single items in these messages are lost; shards are queued again."""

    @property
    def message_keys(self) -> tuple[str, ...]:
        """The keys, one of which must sign a message; empty: messages need no signature."""
        return tuple(key for key in (self.message_key, self.message_key_old) if key)

    @field_validator("message_key", "message_key_old")
    @classmethod
    def _check_key(cls, key: str | None) -> str | None:
        if key is not None and (len(key.encode()) < KEY_BYTES or key != key.strip()):
            raise ValueError(
                f"a key has {KEY_BYTES} bytes or more, and no space or line end around it: "
                "`openssl rand -hex 32` makes one"
            )
        return key

    @field_validator("message_key_old")
    @classmethod
    def _check_old_key(cls, old: str | None, info: ValidationInfo) -> str | None:
        if old is not None and info.data.get("message_key") is None:
            raise ValueError("an old key needs a new one beside it, message_key")
        return old
