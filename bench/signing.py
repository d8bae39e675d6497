"""Measure the cost of signed messages: publish with and without a key, and the HMAC alone.

    python bench/signing.py --messages 6000 --rounds 5
    python bench/signing.py --json bench/results/signing.json

Shards are queued as `clipfleet submit` queues them, in batches of 500, into a Redis that this
program starts, with and without a key in turn. The CPU time is this process's, without Redis.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clipfleet.messages import EMBED_TASK, EmbedTask, Shard, queue_name
from clipfleet.settings import Settings, cores
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.redis_client import connect
from clipfleet.tasks.broker.signing import SIGNATURE_HEADER, check_signature, signature
from clipfleet.tasks.local.redis_server import private_redis
from clipfleet.tasks.submit.enqueue import BATCH_MESSAGES, send

KEY = "k" * 64  # hexadecimal digits, as `openssl rand -hex 32` makes
QUEUE = queue_name("txt")
TASK = EmbedTask(
    dataset="/vectors/photos",
    tower="txt",
    model="a" * 64,
    shard=Shard(job="00001", index=0, size=1024),
)
BODIES = {"a shard's message": 300, "one of 1,000 URLs": 59_000}  # bytes
CALLS = 2000


def main() -> None:
    arguments = parse_arguments()
    with private_redis() as url:
        plain, signed = (settings(url, key) for key in (None, KEY))
        rounds = [
            {
                "plain_us": publish(plain, arguments.messages),
                "signed_us": publish(signed, arguments.messages),
            }
            for _ in range(arguments.rounds + 1)
        ][1:]  # the first warms everything up
        sizes = [element_bytes(each) for each in (plain, signed)]
    result = {
        "messages": arguments.messages,
        "cores": cores(),
        "rounds": rounds,
        "plain_bytes": sizes[0],
        "signed_bytes": sizes[1],
        "hmac_us": {name: time_hmac(size) for name, size in BODIES.items()},
    }
    print_result(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    return parser.parse_args()


def settings(url: str, key: str | None) -> Settings:
    return Settings(redis_url=url, message_key=key)


def publish(given: Settings, messages: int) -> float:
    """Queue messages, and return the CPU time of this process for each, in µs."""
    app = make_app(given)
    try:
        with app.producer_or_acquire() as producer:
            started_s = time.process_time()
            with producer.batch(BATCH_MESSAGES):
                for _ in range(messages):
                    send(app, producer, TASK, QUEUE)
            return 1e6 * (time.process_time() - started_s) / messages
    finally:
        app.close()
        with connect(given.redis_url) as client:
            client.delete(QUEUE)


def element_bytes(given: Settings) -> int:
    """Return the length of one message in Redis."""
    app = make_app(given)
    with connect(given.redis_url) as client, app.producer_or_acquire() as producer:
        send(app, producer, TASK, QUEUE)
        (element,) = client.lrange(QUEUE, 0, -1)
        client.delete(QUEUE)
    app.close()
    return len(element)


def time_hmac(size: int) -> dict[str, float]:
    """Return the µs of making and of checking a signature over a body of `size` bytes."""
    body = b"x" * size
    made = signature(KEY, task=EMBED_TASK, id_="a", queue=QUEUE, body=body)
    headers = {SIGNATURE_HEADER: made, "task": EMBED_TASK, "id": "a"}
    message = SimpleNamespace(headers=headers, body=body, content_encoding="utf-8")
    return {
        "make": per_call(lambda: signature(KEY, task=EMBED_TASK, id_="a", queue=QUEUE, body=body)),
        "check": per_call(lambda: check_signature(message, queue=QUEUE, keys=[KEY])),
    }


def per_call(call: Callable[[], object]) -> float:
    """Return the CPU time of a call in µs, the median of five runs."""
    runs = []
    for _ in range(5):
        started_s = time.process_time()
        for _ in range(CALLS):
            call()
        runs.append(1e6 * (time.process_time() - started_s) / CALLS)
    return round(statistics.median(runs), 2)


def print_result(result: dict[str, Any]) -> None:
    rounds = result["rounds"]
    plain, signed = ([each[name] for each in rounds] for name in ("plain_us", "signed_us"))
    ratios = [one / other for one, other in zip(signed, plain, strict=True)]
    print(
        f"{result['messages']:,} messages a run, median of {len(rounds)} rounds in turn, ", end=""
    )
    print(f"{result['cores']} cores\n")
    print("| | CPU a message, µs | of the plain one's | bytes in Redis |")
    print("|---|---|---|---|")
    print(f"| no signature | {shown(plain, '.0f')} | 1.00 | {result['plain_bytes']:,} |")
    columns = f"{shown(signed, '.0f')} | {shown(ratios, '.2f')}"
    print(f"| HMAC-SHA256 in a header | {columns} | {result['signed_bytes']:,} |")
    print("\n| HMAC-SHA256 over | to make, µs | to check, µs |")
    print("|---|---|---|")
    for name, times in result["hmac_us"].items():
        print(f"| {name}, {BODIES[name]:,} B | {times['make']:.1f} | {times['check']:.1f} |")


def shown(values: list[float], form: str) -> str:
    """Return the median of some values, and their range."""
    least, most = min(values), max(values)
    return f"{statistics.median(values):{form}} ({least:{form}}–{most:{form}})"


if __name__ == "__main__":
    main()
