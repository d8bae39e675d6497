"""What is no message: a worker drops it, says so, and goes on."""

from __future__ import annotations

import base64
import gzip
import json
import time
from typing import Any

import pytest

from clipfleet.jobs import EMBED_TASK
from tasks.progress import read_progress
from tasks.refusals import Refusals, refuse
from tests.integration.support import Bench, texts, wait_until

pytestmark = pytest.mark.integration

_DEEP = "[" * 100_000 + "]" * 100_000


def _message(body: str = "e30=", **changes: Any) -> str:
    """Return what kombu puts into a list, as JSON."""
    properties = {
        "delivery_tag": "a-tag",
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": "clipfleet.txt"},
    }
    whole = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"id": "x", "task": "clipfleet.embed_items"},
        "properties": {**properties, **changes.pop("properties", {})},
    }
    return json.dumps({**whole, **changes})


def _told(protocol: int, **options: Any) -> str:
    """Return a message that tells Celery something of its task, of which nothing else is wrong."""
    task = {"id": "x", "task": EMBED_TASK}
    body: Any = [[], {}, {}]
    if protocol == 1:
        body, options, task = {**task, "args": [], "kwargs": {}, **options}, {}, {}
    encoded = base64.b64encode(json.dumps(body).encode()).decode()
    return _message(encoded, headers={**task, **options})


_BOMB = base64.b64encode(gzip.compress(bytes(10_000_000))).decode()
ELEMENTS: dict[str, str | bytes] = {
    "no JSON": "garbage",
    "nothing": "",
    "no text": b"\xff\xfe\x00",
    "a number": "5",
    "null": "null",
    "a list": "[1, 2]",
    "a string": '"text"',
    "lists in each other": _DEEP,
    "an empty object": "{}",
    "a number too long for Python": '{"properties": 1' + "0" * 5000 + "}",
    "a body that is not base64": _message("not base64 at all"),
    "a body of another type": _message(body=[1]),  # type: ignore[arg-type]
    "an unknown body encoding": _message(properties={"body_encoding": "rot13"}),
    "no tag": _message(properties={"delivery_tag": None}),
    "a tag that is a list": _message(properties={"delivery_tag": [1]}),
    "a tag that is no text": _message(properties={"delivery_tag": "\ud800"}),
    "no delivery": _message(properties={"delivery_info": None}),
    "headers that are a list": _message(headers=[1]),
    "properties that are a list": _message(properties={}).replace('"properties": {', '"p": {'),
    "a bomb": _message(_BOMB, headers={"compression": "application/x-gzip", "id": "b"}),
    "odd type": json.dumps({"__type__": "datetime", "__value__": "never"}),
}
# These are messages: Celery, or our tasks, say what is wrong with them.
READABLE = {
    "no headers": _message(headers={}),
    "a body that is no JSON": _message("AAAA"),
    "a body in another encoding": _message(**{"content-encoding": "no-such-encoding"}),
    "lists in each other in a body": _message(base64.b64encode(_DEEP.encode()).decode()),
    **{
        f"{name} {value!r}, protocol {protocol}": _told(protocol, **{name: value})
        for protocol in (1, 2)
        for name, value in (
            *(("timelimit", ["a", "b"]), ("timelimit", 5), ("stamped_headers", 5)),
            *(("retries", "x"), ("eta", 5), ("expires", [])),
        )
    },
    "pickle": _message(**{"content-type": "application/x-python-serialize"}),
}


def test_nothing_that_a_list_of_redis_holds_ends_a_worker(bench: Bench) -> None:
    worker = bench.start_worker().ready()
    for element in (*ELEMENTS.values(), *READABLE.values()):
        bench.client.lpush(bench.queue, element)
    # What a worker that died held: an odd hold goes back to no queue.
    hold = f"{bench.queue}.unacked"
    for tag, held in (("1", "garbage"), ("2", "[1, 2]"), ("3", '[[], "", "clipfleet.txt"]')):
        bench.client.hset(hold, tag, held)
        bench.client.zadd(f"{hold}.index", {tag: 1})
    for channel in ("/0.celery.pidbox", "/0.celery.pidbox/x"):
        for element in ELEMENTS.values():
            bench.client.publish(channel, element)
    bench.queue_items(texts(3))
    bench.wait_for_items(3, "items-txt")
    assert worker.process.poll() is None
    refused = [e for e in worker.events("message refused") if e["refused"] == "garbage in Redis"]
    assert len(refused) >= len(ELEMENTS)
    assert len(worker.events("engine loaded")) == 1
    shown = "\n".join(read_progress(bench.dataset_path("items-txt"), bench.settings).lines())
    assert "refused garbage in Redis: what was queued is no message" in shown
    assert worker.stop() == 0
    bench.assert_whole("items-txt", vectors=3)


def test_a_worker_that_starts_among_garbage_starts(bench: Bench) -> None:
    for element in ELEMENTS.values():
        bench.client.lpush(bench.queue, element)
    bench.queue_items(texts(1))
    began_s = time.monotonic()
    worker = bench.start_worker().ready()
    bench.wait_for_items(1, "items-txt")
    assert time.monotonic() - began_s < 30
    wait_until(lambda: bench.in_redis() == (0, 0), timeout_s=5, what="Redis is empty")
    assert worker.stop() == 0


def test_a_flood_of_refusals_is_no_flood_of_connections(bench: Bench) -> None:
    def connections() -> int:
        return int(bench.client.info("stats")["total_connections_received"])

    before = connections()
    for number in range(200):
        if number == 100:  # as a server does with one that was idle for long
            bench.client.client_kill_filter(_type="normal", skipme=True)
        refuse(bench.settings, f"shard 00001-{number:07d}", "/d", reason="forged")
    assert connections() - before <= 2
    assert len(Refusals(bench.client, bench.settings.queue_prefix).shards_of("/d")) == 200
