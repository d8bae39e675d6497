"""The application's AMQP layer: it uses the fleet's connection, and signs messages."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu.serialization import dumps

from clipfleet.settings import Settings
from clipfleet.tasks.broker.signing import SIGNATURE_HEADER, signature
from clipfleet.tasks.broker.transport import FleetConnection


class FleetAMQP(AMQP):
    """Celery's AMQP, which signs every message if the settings have keys."""

    Connection = FleetConnection

    @cached_property
    def send_task_message(self) -> Any:
        """Return the function with which Celery sends every task's message."""
        send = super().send_task_message
        keys = settings_of(self.app).message_keys
        return send if not keys else _signing(send, keys[0])


def settings_of(app: Celery) -> Settings:
    """Return the settings of an application; they travel with it into the worker's child."""
    settings: Settings = app.conf.clipfleet_settings
    return settings


def _signing(send: Any, key: str) -> Any:
    def send_signed(
        producer: Any, name: str, message: Any, *, queue: Any, headers: Any = None, **options: Any
    ) -> Any:
        body = dumps(message.body, "json")[2].encode()  # as the producer will write it
        given = headers or {}  # a retried task passes the headers of its last message
        value = signature(
            key,
            task=name,
            id_=given.get("id", message.headers["id"]),
            queue=getattr(queue, "name", queue),
            body=body,
        )
        signed = {**given, SIGNATURE_HEADER: value}
        return send(producer, name, message, queue=queue, headers=signed, **options)

    return send_signed
