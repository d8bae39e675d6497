"""Held messages: Redis moves a message between its queue and the record of its holder in one step.

A message that a worker has taken is in a hash, under a tag of this delivery, and a sorted set has
the time until which the worker holds it. Each change is one script. So a killed worker, a lost
connection or a lost answer leaves every message in the queue or in the hash. All times are of the
clock of Redis; the clocks of the workers do not matter.

A Redis that is out of memory refuses a script whose first write needs memory. So each script first
removes, and then adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from clipfleet.tasks.broker.queue_stats import lists_of, times_key, unacked_key
from clipfleet.tasks.broker.redis_client import Client

_MAX_EXPIRED = 100  # messages in an answer

_NOW = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
"""

# KEYS: the hash, the sorted set, the queue's lists; ARGV: the tag, and seconds.
_TAKE = f"""{_NOW}
for i = 3, #KEYS do
  local message = redis.call('RPOP', KEYS[i])
  if message then
    redis.call('HSET', KEYS[1], ARGV[1], message)
    redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
    return message
  end
end
return false
"""

# KEYS: the sorted set; ARGV: seconds, and the tags. A tag that left the set is not added again.
_RENEW = f"""{_NOW}
for i = 2, #ARGV do
  if redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then
    redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i])
  end
end
"""

# KEYS: the hash, the sorted set; ARGV: the maximum of messages. Returns tag, message, tag, …
_EXPIRED = f"""{_NOW}
local found = {{}}
local tags = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
for _, tag in ipairs(tags) do
  local message = redis.call('HGET', KEYS[1], tag)
  if message then
    table.insert(found, tag)
    table.insert(found, message)
  else
    redis.call('ZREM', KEYS[2], tag)
  end
end
return found
"""

# KEYS: the hash, the sorted set, a list; ARGV: the tag, the message, LPUSH or RPUSH.
_PUT_BACK = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call(ARGV[3], KEYS[3], ARGV[2])
end
"""


@dataclass(frozen=True)
class HeldMessages:
    """The messages of one queue that workers have taken and not acknowledged."""

    queue: str
    visibility_timeout_s: float

    @property
    def _hash(self) -> str:
        return unacked_key(self.queue)

    @property
    def _times(self) -> str:
        return times_key(self.queue)

    def take_command(self, tag: str) -> tuple[Any, ...]:
        """Return the command that takes the next message, holds it under a tag and returns it."""
        keys = (self._hash, self._times, *lists_of(self.queue))
        return "EVAL", _TAKE, len(keys), *keys, tag, self.visibility_timeout_s

    def renew(self, client: Client, tags: Iterable[str]) -> None:
        """Hold messages for another visibility timeout."""
        client.eval(_RENEW, 1, self._times, self.visibility_timeout_s, *tags)

    def delete(self, client: Client, tag: str) -> None:
        """Delete a message.

        Not in a transaction, which a Redis that is out of memory refuses. The first command
        decides; `expired` deletes what is left in the sorted set.
        """
        with client.pipeline(transaction=False) as pipe:
            pipe.hdel(self._hash, tag)
            pipe.zrem(self._times, tag)
            pipe.execute()

    def read(self, client: Client, tag: str) -> bytes | None:
        """Return a held message; None if it was put back or deleted."""
        message: Any = client.hget(self._hash, tag)
        return message  # type: ignore[no-any-return]

    def expired(self, client: Client) -> Iterator[tuple[str, bytes]]:
        """Yield the tags and messages that nobody renewed in time; `put_back` must follow each."""
        while found := client.eval(_EXPIRED, 2, self._hash, self._times, _MAX_EXPIRED):
            for tag, message in zip(found[::2], found[1::2], strict=True):
                yield tag.decode(), message

    def put_back(
        self, client: Client, tag: str, message: str | bytes, *, to: str, last: bool
    ) -> None:
        """Move a message to a list of its queue, as the next or last to be taken.

        Nothing happens if another worker did so before.
        """
        push = "LPUSH" if last else "RPUSH"
        client.eval(_PUT_BACK, 3, self._hash, self._times, to, tag, message, push)
