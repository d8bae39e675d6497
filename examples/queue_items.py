"""Queue pictures or texts for clipfleet from a program that has Celery and nothing of ours.

    python queue_items.py --tower img /data/new/*.jpg
    tail -f captions.txt | python queue_items.py --tower txt --each 50

An item is `{"id", "uri"}` (image) or `{"id", "text"}`. Its id is yours, and unique: an id that
is queued again is not embedded again. A message holds as many items as you like; the worker
gathers what arrives, and acknowledges a message only when its items are written, as a vector
or as a row of the errors table.
"""

import argparse
import hashlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator

from celery import Celery


def read_items(tower: str, values: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield an item for each path or text; equal texts get equal ids."""
    for value in values:
        if tower == "img":
            path = os.path.abspath(value)
            yield {"id": path, "uri": path}
        else:
            yield {"id": hashlib.sha256(value.encode()).hexdigest(), "text": value}


def queue_items(app: Celery, tower: str, items: Iterable[dict[str, str]], each: int) -> int:
    """Send items in messages of `each`, over one connection; return how many items went."""
    iterator, count = iter(items), 0
    with app.producer_pool.acquire(block=True) as producer:
        while batch := list(itertools.islice(iterator, each)):
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
    parser.add_argument("--redis-url", default=os.environ.get("CLIPFLEET_REDIS_URL"))
    arguments = parser.parse_args()
    app = Celery(broker=arguments.redis_url or "redis://127.0.0.1:6379/0")
    values = arguments.values or (line.rstrip("\n") for line in sys.stdin)
    items = read_items(arguments.tower, values)
    print(f"queued {queue_items(app, arguments.tower, items, arguments.each)} items")


if __name__ == "__main__":
    main()
