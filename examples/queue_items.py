"""Queue pictures or texts for clipfleet from a program that has Celery and nothing of ours.

    python queue_items.py --tower img /data/new/*.jpg
    tail -f captions.txt | python queue_items.py --tower txt --each 50

An item is `{"id", "uri"}` (image) or `{"id", "text"}`. Its id is yours, and unique: an id that
is queued again is not embedded again. A message holds as many items as you like; the worker
gathers what arrives, and acknowledges a message only when its items are written, as a vector
or as a row of the errors table. While `--most` messages wait in the queue, this program waits too.
"""

import argparse
import hashlib
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from celery import Celery


def read_items(tower: str, values: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield an item for each path or text; equal texts get equal ids."""
    for value in values:
        if tower == "img":
            path = os.path.abspath(value)
            yield {"id": path, "uri": path}
        else:
            yield {"id": hashlib.sha256(value.encode()).hexdigest(), "text": value}


def wait_for_room(redis: Any, queue: str, most: int) -> None:
    """Wait until fewer than `most` messages wait in a queue, which is a list in Redis."""
    pause_s = 0.05
    while (length := redis.llen(queue)) >= most:
        print(f"{length} messages wait, {most} may: waiting", flush=True)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 5)


def queue_items(
    app: Celery, tower: str, items: Iterable[dict[str, str]], each: int, most: int
) -> int:
    """Send items in messages of `each`, over one connection; return how many items went."""
    iterator, count = iter(items), 0
    with app.producer_pool.acquire(block=True) as producer:
        channel: Any = producer.channel
        redis = channel.client  # redis-py's, over the connection that Celery has
        while batch := list(itertools.islice(iterator, each)):
            wait_for_room(redis, f"clipfleet.{tower}", most)
            app.send_task(
                "clipfleet.embed_items",
                args=[batch],
                # kwargs={"dataset": "/vectors/mine"} names another dataset than items-img,
                # inside the workers' output folder.
                queue=f"clipfleet.{tower}",
                producer=producer,
                ignore_result=True,
                # While Redis is away, keep trying; then raise.
                retry_policy={"max_retries": 10, "interval_max": 5},
            )
            count += len(batch)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("values", nargs="*", help="paths, or texts; standard input otherwise")
    parser.add_argument("--tower", choices=("img", "txt"), required=True)
    parser.add_argument("--each", type=int, default=1, help="items a message")
    parser.add_argument("--most", type=int, default=10_000, help="messages that may wait")
    parser.add_argument("--redis-url", default=os.environ.get("CLIPFLEET_REDIS_URL"))
    arguments = parser.parse_args()
    app = Celery(broker=arguments.redis_url or "redis://127.0.0.1:6379/0")
    values = arguments.values or (line.rstrip("\n") for line in sys.stdin)
    items = read_items(arguments.tower, values)
    count = queue_items(app, arguments.tower, items, arguments.each, arguments.most)
    print(f"queued {count} items")


if __name__ == "__main__":
    main()
