"""The Celery application: queues, acknowledgement and the connection to Redis."""

from __future__ import annotations

import ssl
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from clipfleet.architectures import TOWERS
from clipfleet.messages import queue_name
from clipfleet.settings import Settings, load_settings
from clipfleet.tasks.broker.amqp import FleetAMQP
from clipfleet.tasks.broker.broker_url import BrokerUrl, parse_broker_url
from clipfleet.tasks.broker.held_messages import HeldMessages
from clipfleet.tasks.broker.redis_client import CONNECT_TIMEOUT_S

TASK_MODULES = (
    "clipfleet.tasks.embed_shard",
    "clipfleet.tasks.index_shard",
    "clipfleet.tasks.items.task",
    "clipfleet.tasks.worker.main",
)

_SWEEP_S = 1  # between sweeps for the messages of dead workers
# A connection without any answer (a firewall dropped it) is replaced: the consumer's after twice
# `_HEALTH_CHECK_S`, others after `_SOCKET_TIMEOUT_S`.
_HEALTH_CHECK_S = 5
_SOCKET_TIMEOUT_S = 5.0
_ENGINE_LOAD_S = 900  # a child that is not ready after this is killed and started again


def make_app(settings: Settings) -> Celery:
    """Return the application of a fleet; a worker's settings also name its tower.

    The application connects when it is first used.

    Raises:
        SettingsError: The URL of Redis is wrong.
    """
    broker = parse_broker_url(settings.redis_url)
    app = Celery("clipfleet", amqp=FleetAMQP, set_as_current=False)
    app.conf.update(
        clipfleet_settings=settings,  # see `settings_of`; they travel to the child
        broker_url=broker.for_kombu(),
        # Its commands are not signed, and one of them drops messages.
        worker_enable_remote_control=not settings.message_keys,
        **_tls(broker),
        broker_transport_options=_transport_options(settings, broker),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker survives any outage of Redis
        broker_connection_timeout=CONNECT_TIMEOUT_S,
        # A producer survives a short outage of Redis, and fails within seconds in a longer one.
        task_publish_retry_policy={
            "max_retries": 4,
            "interval_start": 0.2,
            "interval_step": 0.4,
            "interval_max": 2.0,
        },
        task_queues=[_queue(queue_name(tower, settings.queue_prefix)) for tower in TOWERS],
        task_default_queue=queue_name(settings.tower or TOWERS[0], settings.queue_prefix),
        task_create_missing_queues=False,
        **_JSON_ONLY,
        **_ACKNOWLEDGED_LATE,
        include=TASK_MODULES,
        worker_concurrency=settings.engine_processes or 1,
        **_SPAWNED_CHILDREN,
    )
    return app


_JSON_ONLY: dict[str, Any] = {
    "task_serializer": "json",
    "event_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
}

_ACKNOWLEDGED_LATE: dict[str, Any] = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_acks_on_timeout": False,  # back to the queue
    # No task fails: `retry_policy` turns errors into retries and refusals.
    "task_acks_on_failure": True,
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    "result_backend": None,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
}

_SPAWNED_CHILDREN: dict[str, Any] = {
    "worker_pool": "clipfleet.tasks.worker.pool:TaskPool",  # prefork
    "worker_pool_start_method": "spawn",
    "worker_consumer": "clipfleet.tasks.broker.consumer:FleetConsumer",
    "worker_prefetch_multiplier": 2,  # a child: the running shard, and one reserved
    "worker_proc_alive_timeout": _ENGINE_LOAD_S,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
}


def _tls(broker: BrokerUrl) -> dict[str, Any]:
    """Have the server's certificate checked, unless the URL's options say otherwise."""
    if broker.scheme != "rediss":
        return {}  # with the option, kombu would use TLS for any server
    return {"broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED, **broker.tls}}


def _queue(name: str) -> Queue:
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def _transport_options(settings: Settings, broker: BrokerUrl) -> dict[str, Any]:
    queue = queue_name(settings.tower or TOWERS[0], settings.queue_prefix)
    return {
        "settings": settings,  # for refusals in clipfleet.tasks.broker.transport
        "held": HeldMessages(queue, visibility_timeout_s=settings.visibility_timeout_s),
        "visibility_timeout": settings.visibility_timeout_s,
        "unacked_restore_interval": _SWEEP_S,
        "health_check_interval": _HEALTH_CHECK_S,
        "socket_timeout": _SOCKET_TIMEOUT_S,
        "socket_keepalive": True,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "url_options": broker.options,
    }


def __getattr__(name: str) -> Celery:
    """Make `app` at its first use, by `celery --app clipfleet.tasks.app` or Flower."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = globals()["app"] = make_app(load_settings())
    return app
