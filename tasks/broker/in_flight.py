"""The hand: where a message lies in Redis between its queue and the record of who holds it.

Celery's transport takes a message out of its list, and records it as held with the next
command. A worker that is killed in between takes it along, which single items do not survive:
no plan has them. Here Redis itself moves the message to a list of the worker's own, its hand, from
which it goes when the record is written. What a dead worker has in its hand goes back to the queue.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from clipfleet.tasks.broker.redis_client import Client

RENEWALS = 4  # within a visibility timeout, of a worker's sign of life and of its holds

# A hand is looked into for so long after its worker was last seen: one that slept may still move a
# message there with the last command that it sent.
_FORGOTTEN_S = 3600

# At once, so that no message is in two lists, nor in none. KEYS: the hands, the queue; ARGV: who
# was not seen since, and who is forgotten.
_PUT_BACK = """
local put = 0
for _, hand in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE')) do
  while redis.call('LMOVE', hand, KEYS[2], 'LEFT', 'RIGHT') do put = put + 1 end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
return put
"""


class Hand:
    """One channel's hand, for one queue."""

    def __init__(self, queue: str, *, visibility_timeout_s: float) -> None:
        self.queue = queue
        self.key = f"{queue}.hand.{uuid.uuid4().hex}"
        self._timeout_s = visibility_timeout_s
        self._renewed_s = float("-inf")
        self.full = False  # a message lies in it, whose record is not written

    def take_command(self, timeout_s: float) -> tuple[Any, ...]:
        """Return the command that waits for a message and moves it here, and replies with it."""
        return "BLMOVE", self.queue, self.key, "RIGHT", "LEFT", timeout_s

    @property
    def is_shown(self) -> bool:
        """Whether `show` was called a moment ago, as it must be before a message is taken."""
        return time.monotonic() - self._renewed_s < self._timeout_s / RENEWALS

    def show(self, client: Client) -> None:
        """Say that this worker lives."""
        client.zadd(hands_key(self.queue), {self.key: time.time()})
        self._renewed_s = time.monotonic()

    def empty(self, client: Client) -> None:
        """Let go of what was no message."""
        client.delete(self.key)
        self.full = False


def hands_key(queue: str) -> str:
    """Return the sorted set of a queue's hands, with when their workers were last seen."""
    return f"{queue}.hands"


def put_back(client: Client, queue: str, *, visibility_timeout_s: float) -> int:
    """Put what dead workers have in their hands back to the queue; return how many messages."""
    now_s = time.time()
    seen, forgotten = now_s - visibility_timeout_s, now_s - visibility_timeout_s - _FORGOTTEN_S
    return int(client.eval(_PUT_BACK, 2, hands_key(queue), queue, seen, forgotten))
