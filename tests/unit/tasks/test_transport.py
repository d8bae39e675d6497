"""The transport beside a Redis that fails; the rest of it needs a real one."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from clipfleet.tasks.broker.transport import FleetChannel, FleetQoS, FleetTransport
from clipfleet.tasks.retry_policy import times_lost


def qos_of(**channel: Any) -> FleetQoS:
    known = {"unacked_key": "held", "unacked_index_key": "held.index", "do_restore": False}
    return FleetQoS(SimpleNamespace(**known, in_flight=None, **channel))


def held(qos: FleetQoS) -> dict[str, Any]:
    delivered: dict[str, Any] = qos._delivered  # type: ignore[assignment]
    return delivered


def failing(error: Exception) -> MagicMock:
    """Return a channel's way to a client whose pipelines fail."""
    acquire = MagicMock()
    client = acquire.return_value.__enter__.return_value
    for pipe in (client.pipeline.return_value, client.pipeline.return_value.__enter__.return_value):
        pipe.execute.side_effect = error
        pipe.zrem.return_value.hdel.return_value = pipe
        pipe.zadd.return_value.hset.return_value = pipe
    return acquire


def test_an_acknowledgement_that_fails_keeps_no_place() -> None:
    qos = qos_of(conn_or_acquire=failing(RedisConnectionError("cut")))
    qos.prefetch_count = 1
    held(qos)["tag"] = object()
    assert not qos.can_consume()
    with pytest.raises(RedisConnectionError):
        qos.ack("tag")
    assert qos.can_consume()


def test_a_message_that_a_full_redis_does_not_record_is_held_all_the_same() -> None:
    qos = qos_of(conn_or_acquire=failing(OutOfMemoryError("full")))
    message = SimpleNamespace(delivery_info={"exchange": "", "routing_key": "q"}, _raw={})
    qos.append(message, "tag")
    assert list(held(qos)) == ["tag"]


@pytest.mark.parametrize("connection", [None, SimpleNamespace(client=None)])
def test_an_acknowledgement_on_a_closed_channel_ends_no_worker(
    connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    channel = FleetChannel.__new__(FleetChannel)  # its making would connect
    channel.connection = connection
    channel._qos = qos = FleetQoS(channel, prefetch_count=1)
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
    ours = {
        "_append_from",
        "_put_back_lost",
        "_announce",
        "_in_flight_for",
        "_take",
        "_deliver_from",
        "_reply",
        "process_lost",
        "_clear",
        "drop",
    }
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
    monkeypatch: pytest.MonkeyPatch, tag: str, process_died: bool, losses: int
) -> None:
    restored: list[Any] = []
    monkeypatch.setattr(
        kombu_redis.Channel, "_do_restore_message", lambda _, payload, *__: restored.append(payload)
    )
    channel = FleetChannel.__new__(FleetChannel)  # its making would connect
    channel.do_restore = False
    channel._qos = qos = FleetQoS(channel, prefetch_count=1)
    held(qos)["mine"] = object()
    if process_died:
        channel.process_lost(tag)
    payload = {"properties": {"delivery_tag": tag, "delivery_info": {"exchange": "e"}}}
    channel._do_restore_message(payload, "e", "q", None)
    assert times_lost(restored[0]["properties"]["delivery_info"]) == losses
