"""The transport beside a Redis that fails; the rest of it needs a real one."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from clipfleet.tasks.broker.held_messages import HeldMessages
from clipfleet.tasks.broker.transport import FleetChannel, FleetQoS, FleetTransport
from clipfleet.tasks.retry_policy import times_lost

HELD = HeldMessages("q", visibility_timeout_s=10)
FULL = "command not allowed when used memory > 'maxmemory'."


def qos_of(**channel: Any) -> FleetQoS:
    return FleetQoS(SimpleNamespace(held=HELD, do_restore=False, **channel))


def held(qos: Any) -> dict[str, Any]:
    delivered: dict[str, Any] = qos._delivered
    return delivered


def failing(error: Exception) -> MagicMock:
    """Return a channel's way to a client whose pipelines fail."""
    acquire = MagicMock()
    pipeline = acquire.return_value.__enter__.return_value.pipeline.return_value
    pipeline.__enter__.return_value.execute.side_effect = error
    return acquire


def channel_of(**attributes: Any) -> FleetChannel:
    """Return a channel without a Redis; its making would connect."""
    channel = FleetChannel.__new__(FleetChannel)
    channel.do_restore = False
    channel.held = HELD
    channel._qos = FleetQoS(channel, prefetch_count=1)
    for name, value in attributes.items():
        setattr(channel, name, value)
    return channel


def test_an_acknowledgement_that_fails_keeps_no_place() -> None:
    qos = qos_of(conn_or_acquire=failing(RedisConnectionError("cut")))
    qos.prefetch_count = 1
    held(qos)["tag"] = object()
    assert not qos.can_consume()
    with pytest.raises(RedisConnectionError):
        qos.ack("tag")
    assert qos.can_consume()


@pytest.mark.parametrize("connection", [None, SimpleNamespace(client=None)])
def test_an_acknowledgement_on_a_closed_channel_ends_no_worker(
    connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    channel = channel_of(connection=connection)
    qos = channel.qos
    held(qos)["tag"] = object()
    properties = {"delivery_tag": "tag", "delivery_info": {}}
    message = virtual.Message({"body": "", "properties": properties}, channel=channel)
    message.ack_log_error(logging.getLogger(), FleetTransport.connection_errors)
    assert "the connection to Redis was lost meanwhile" in caplog.text
    assert qos.can_consume()


def test_a_connection_that_is_gone_ends_no_worker() -> None:
    qos = qos_of(connection=SimpleNamespace(client=None))
    held(qos)["tag"] = object()
    qos.restore_unacked()
    assert not held(qos)


@pytest.mark.parametrize("overriding", [FleetChannel, FleetQoS, FleetTransport])
def test_what_is_overridden_is_there_to_be_called(overriding: type) -> None:
    ours = {"_pause", "_end_pause", "_hand_over", "put_back", "process_lost", "drop"}
    names = {name for name, value in vars(overriding).items() if callable(value)} - ours
    assert names
    assert [name for name in names if not hasattr(overriding.__base__, name)] == []


@pytest.mark.parametrize(
    ("tag", "process_died", "losses"),
    [
        ("mine", False, 0),  # a worker that stops hands it back
        ("mine", True, 1),
        ("another worker's", False, 1),  # whose hold has run out
    ],
)
def test_a_message_that_is_put_back_counts_the_losses_of_its_process_and_its_worker(
    tag: str, process_died: bool, losses: int
) -> None:
    channel = channel_of()
    held(channel.qos)["mine"] = object()
    if process_died:
        channel.process_lost(tag)
    client = MagicMock()
    message = {"properties": {"priority": 3, "delivery_info": {}}}
    channel.put_back(client, tag, json.dumps(message).encode())
    *_, to, found, put, push = client.eval.call_args.args
    assert (to, found, push) == ("q\x06\x163", tag, "RPUSH")
    info = json.loads(put)["properties"]["delivery_info"]
    assert (times_lost(info), info["redelivered"]) == (losses, True)


def test_an_element_that_is_no_message_is_put_back_as_it_is() -> None:
    client = MagicMock()
    channel_of().put_back(client, "another worker's", b"garbage", last=True)
    assert client.eval.call_args.args[-4:] == ("q", "another worker's", "garbage", "LPUSH")


@pytest.mark.parametrize(
    ("error", "starts"),
    [
        (OutOfMemoryError(FULL), True),
        (ResponseError(f"-OOM {FULL}"), True),
        (ResponseError(), False),
    ],
    ids=["Redis 7", "Redis 6.2, in a script", "another error"],
)
def test_a_worker_starts_while_redis_is_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, error: Exception, starts: bool
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(kombu_redis.Channel, "_queue_bind", refuse)
    with nullcontext() if starts else pytest.raises(ResponseError):
        channel_of()._queue_bind("exchange", "key", "", "q")
