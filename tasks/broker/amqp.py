"""How the fleet's application speaks to Redis: over a careful connection, in signed messages."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from celery.app.amqp import AMQP
from kombu.serialization import dumps

from clipfleet.tasks.broker.signing import SIGNATURE_HEADER, signature
from clipfleet.tasks.broker.transport import CarefulConnection


class FleetAMQP(AMQP):
    """Celery's AMQP, which signs every message if the application has keys."""

    Connection = CarefulConnection

    @cached_property
    def send_task_message(self) -> Any:
        """Return what Celery sends every message of a task with."""
        send = super().send_task_message
        keys = self.app.conf.clipfleet_settings.message_keys
        return send if not keys else _signing(send, keys[0])


def _signing(send: Any, key: str) -> Any:
    def send_signed(
        producer: Any, name: str, message: Any, *, queue: Any, headers: Any = None, **options: Any
    ) -> Any:
        body = dumps(message.body, "json")[2].encode()  # as the producer will write it
        given = headers or {}  # a task that is tried again has those of its last message
        made = signature(
            key,
            task=name,
            id_=given.get("id", message.headers["id"]),
            queue=getattr(queue, "name", queue),
            body=body,
        )
        signed = {**given, SIGNATURE_HEADER: made}
        return send(producer, name, message, queue=queue, headers=signed, **options)

    return send_signed
