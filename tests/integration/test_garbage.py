"""A producer's mistakes in a queue: a worker drops each, says so, and goes on."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from clipfleet.messages import EMBED_TASK
from clipfleet.tasks.broker.refusals import Refusals, refuse
from clipfleet.tasks.status.progress import read_progress
from tests.integration.support import Bench, texts, wait_until

pytestmark = pytest.mark.integration


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
    body: Any = [[], {}, options.pop("embed", {}) if protocol == 2 else {}]
    if protocol == 1:
        options |= options.pop("embed", {})
        body, options, task = {**task, "args": [], "kwargs": {}, **options}, {}, {}
    encoded = base64.b64encode(json.dumps(body).encode()).decode()
    return _message(encoded, headers={**task, **options})


# After a task that returned, Celery queues these.
_STRANGE: dict[str, Any] = {
    "task": "a.strangers",
    "args": [],
    "kwargs": {},
    "options": {"queue": "clipfleet.img"},
    "subtask_type": None,
    "immutable": True,
}

# What a producer that speaks to Redis by itself may put there by mistake: no messages.
ELEMENTS: dict[str, str | bytes] = {
    "no JSON": "garbage",
    "nothing": "",
    "no text": b"\xff\xfe\x00",
    "a number": "5",
    "null": "null",
    "a list": "[1, 2]",
    "lists in each other": "[" * 100_000,
    "an item": '{"id": "a", "text": "words"}',
    "a body that is not base64": _message("not base64 at all"),
    "a body of another type": _message(body=[1]),  # type: ignore[arg-type]
    "an unknown body encoding": _message(properties={"body_encoding": "rot13"}),
    "headers that are a list": _message(headers=[1]),
    "no properties": _message(properties={}).replace('"properties": {', '"p": {'),
}
# These are messages: Celery, or our tasks, say what is wrong with them.
READABLE = {
    "no tag": _message(properties={"delivery_tag": None}),
    "no delivery": _message(properties={"delivery_info": None}),
    "no headers": _message(headers={}),
    "an unknown task": _message(headers={"id": "x", "task": "somebody.elses"}),
    "a body that is no JSON": _message("AAAA"),
    "a body in another encoding": _message(**{"content-encoding": "no-such-encoding"}),
    "a compressed body that is not": _message(
        headers={"id": "x", "task": EMBED_TASK, "compression": "application/x-gzip"}
    ),
    "a time limit that is not two": _told(2, timelimit=5),
    **{
        f"a {name} in the body, protocol {protocol}": _told(protocol, embed={name: [_STRANGE]})
        for name in ("callbacks", "chain")
        for protocol in (1, 2)
    },
    "pickle": _message(**{"content-type": "application/x-python-serialize"}),
    **{
        f"{name} {value!r}, protocol {protocol}": _told(protocol, **{name: value})
        for protocol in (1, 2)
        for name, value in (
            ("retries", "x"),
            ("eta", 5),
            ("eta", "tomorrow"),
            ("expires", "never"),
        )
    },
}


def test_no_mistake_in_a_queue_ends_a_worker(bench: Bench) -> None:
    worker = bench.start_worker().ready()
    for element in (*ELEMENTS.values(), *READABLE.values()):
        bench.client.lpush(bench.queue, element)
    bench.queue_items(texts(3))
    bench.wait_for_items(3, "items-txt")
    assert worker.process.poll() is None
    refused = [e for e in worker.events("message refused") if e["refused"] == "garbage in Redis"]
    assert len(refused) >= len(ELEMENTS)
    assert bench.client.llen("clipfleet.img") == 0
    assert len(worker.events("engine loaded")) == 1
    shown = "\n".join(read_progress(bench.dataset_path("items-txt"), bench.settings).lines())
    assert "refused garbage in Redis: what was queued is no message" in shown
    assert worker.stop() == 0
    bench.assert_whole("items-txt", vectors=3)


def test_a_worker_that_starts_among_mistakes_starts(bench: Bench) -> None:
    for element in ELEMENTS.values():
        bench.client.lpush(bench.queue, element)
    bench.queue_items(texts(1))
    worker = bench.start_worker().ready()
    bench.wait_for_items(1, "items-txt")
    wait_until(lambda: bench.in_redis() == (0, 0), what="Redis is empty")
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
