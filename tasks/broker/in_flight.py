"""In-flight lists: a message's place in Redis between the queue and the unacknowledged hash.

Celery's transport takes a message out of its list, and records it as unacknowledged with the next
command. If the worker is killed in between, the message is lost; no plan has single items, so they
cannot be queued again. Here Redis itself moves the message to an in-flight list of the worker.
The transaction that writes the record deletes it from there. The messages in a dead worker's
in-flight list go back to the queue.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from clipfleet.tasks.broker.redis_client import Client

RENEWALS = 4  # per visibility timeout, of a worker's time stamp and of its messages' times

# An in-flight list is checked for this long after its worker's last time stamp: the last command of
# a suspended worker may still move a message to it.
_FORGOTTEN_S = 3600

# A script, so that no message is in two lists or in none. KEYS: the in-flight lists, the queue;
# ARGV: the times before whose time stamps a worker counts as dead, and a list is forgotten.
_PUT_BACK = """
local put = 0
for _, list in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE')) do
  while redis.call('LMOVE', list, KEYS[2], 'LEFT', 'RIGHT') do put = put + 1 end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
return put
"""


class InFlight:
    """One channel's in-flight list for one queue; it holds at most one message."""

    def __init__(self, queue: str, *, visibility_timeout_s: float) -> None:
        self.queue = queue
        self.key = f"{queue}.hand.{uuid.uuid4().hex}"
        self._timeout_s = visibility_timeout_s
        self._renewed_s = float("-inf")
        self.full = False  # it holds a message whose record is not written

    def take_command(self, timeout_s: float) -> tuple[Any, ...]:
        """Return the command that waits for a message, moves it to this list and returns it."""
        return "BLMOVE", self.queue, self.key, "RIGHT", "LEFT", timeout_s

    @property
    def is_announced(self) -> bool:
        """Whether `announce` was called recently, as it must be before a message is taken."""
        return time.monotonic() - self._renewed_s < self._timeout_s / RENEWALS

    def announce(self, client: Client) -> None:
        """Write the time stamp that shows that this worker is alive."""
        client.zadd(in_flight_key(self.queue), {self.key: time.time()})
        self._renewed_s = time.monotonic()

    def clear(self, client: Client) -> None:
        """Delete an element that is not a message."""
        client.delete(self.key)
        self.full = False


def in_flight_key(queue: str) -> str:
    """Return the sorted set of a queue's in-flight lists, with their workers' time stamps."""
    return f"{queue}.hands"


def put_back(client: Client, queue: str, *, visibility_timeout_s: float) -> int:
    """Move dead workers' in-flight messages back to the queue; return how many."""
    now_s = time.time()
    dead, forgotten = now_s - visibility_timeout_s, now_s - visibility_timeout_s - _FORGOTTEN_S
    return int(client.eval(_PUT_BACK, 2, in_flight_key(queue), queue, dead, forgotten))
