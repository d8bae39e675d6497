"""Queue statistics: count and read the messages of a queue in Redis."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from kombu.utils.encoding import bytes_to_str

from clipfleet.tasks.broker.redis_client import Client

# Celery keeps one list per priority; the list of priority 0 has the queue's own name. A producer
# may have other steps than Celery's 0, 3, 6 and 9, and the separator of Celery's documentation.
_PRIORITY_SEPARATORS = ("\x06\x16", ":")
_PRIORITIES = range(1, 10)
_SCAN_MESSAGES = 1000  # per round trip


def message_counts(client: Client, queue: str) -> tuple[int, int]:
    """Return how many messages of a queue wait, and how many workers hold."""
    return queue_length(client, queue), held_length(client, queue)


def queue_length(client: Client, queue: str) -> int:
    """Return how many messages wait in a queue, of all priorities."""
    with client.pipeline(transaction=False) as pipe:
        for name in lists_of(queue):
            pipe.llen(name)
        return sum(pipe.execute())


def unread_messages(client: Client, queue: str) -> dict[str, int]:
    """Return how many messages lie in lists that no worker reads, by their producers' separators.

    A producer's kombu writes a binding: the queue's name, the separator twice, and the name again.
    """
    found: dict[str, int] = {}
    for member in client.smembers(f"_kombu.binding.{queue}"):
        binding = bytes_to_str(member)
        middle = binding.removeprefix(queue).removesuffix(queue)
        separator = middle[: len(middle) // 2]
        if binding != f"{queue}{separator * 2}{queue}" or separator in ("", *_PRIORITY_SEPARATORS):
            continue
        with client.pipeline(transaction=False) as pipe:
            for step in _PRIORITIES:
                pipe.llen(f"{queue}{separator}{step}")
            if count := sum(pipe.execute()):
                found[separator] = count
    return found


def lengths_by_priority(client: Client, queue: str) -> dict[int, int]:
    """Return how many messages wait in a queue at each priority at which there are any."""
    names = lists_of(queue)
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(name)
        lengths = pipe.execute()
    found: Counter[int] = Counter()
    for name, length in zip(names, lengths, strict=True):
        found[0 if name == queue else int(name[-1])] += length
    return {priority: length for priority, length in found.items() if length}


def unacked_key(queue: str) -> str:
    """Return the hash of a queue's messages that workers hold and have not acknowledged."""
    return f"{queue}.unacked"


def times_key(queue: str) -> str:
    """Return the sorted set of the times, of Redis's clock, until which workers hold messages."""
    return f"{unacked_key(queue)}.times"


def served_length(client: Client, queue: str) -> int:
    """Return how many messages of a queue are held by workers that live: these renew the time."""
    seconds, microseconds = client.time()
    return int(client.zcount(times_key(queue), seconds + microseconds / 1e6, "+inf"))


def held_length(client: Client, queue: str) -> int:
    """Return how many messages of a queue workers hold: running, reserved or in a batch."""
    return int(client.hlen(unacked_key(queue)))


def waiting_messages(client: Client, queue: str) -> Iterator[Any]:
    """Yield the messages that wait in a queue; one that moves meanwhile may come twice."""
    for name in lists_of(queue):
        yield from elements(client, name)


def some_messages(client: Client, queue: str, count: int) -> list[Any]:
    """Return up to `count` of the messages in each list of a queue; of held ones if none waits."""
    with client.pipeline(transaction=False) as pipe:
        for name in lists_of(queue):
            pipe.lrange(name, 0, count - 1)
        found = list(itertools.chain.from_iterable(pipe.execute()))
    if not found:
        held: Any = client.hrandfield(unacked_key(queue), count, withvalues=True)
        found = (held or [])[1::2]  # tags and messages, in turn
    return [*filter(None, map(_parsed, found))]


def elements(client: Client, name: str) -> Iterator[Any]:
    """Yield the messages in a list of Redis; one that moves meanwhile may come twice."""
    # Read from the end where messages enter: a worker takes from the other end, which moves no
    # message that is still to be read.
    start = 0
    while batch := client.lrange(name, start, start + _SCAN_MESSAGES - 1):
        yield from filter(None, map(_parsed, batch))
        start += len(batch)


def held_messages(client: Client, queue: str) -> Iterator[Any]:
    """Yield the messages of a queue that workers hold and have not acknowledged."""
    held = client.hscan_iter(unacked_key(queue), count=_SCAN_MESSAGES)
    yield from filter(None, (_parsed(message) for _, message in held))


def _parsed(value: bytes | str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None  # not a message


def lists_of(queue: str) -> list[str]:
    """Return the lists of a queue, in the order in which workers take from them."""
    steps = itertools.product(_PRIORITIES, _PRIORITY_SEPARATORS)
    return [queue, *(f"{queue}{separator}{step}" for step, separator in steps)]
