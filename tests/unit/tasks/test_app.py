"""The Celery application's settings."""

from __future__ import annotations

import importlib
import pickle
import ssl
from pathlib import Path
from typing import Any

import pytest

from clipfleet.settings import load_settings
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.amqp import settings_of


def test_queues_are_one_a_tower_with_the_fleets_prefix() -> None:
    app = make_app(load_settings(queue_prefix="fleet"))
    assert sorted(queue.name for queue in app.conf.task_queues) == ["fleet.img", "fleet.txt"]
    assert app.conf.task_create_missing_queues is False


def test_only_json_is_taken_and_nothing_is_stored() -> None:
    app = make_app(load_settings())
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    assert app.conf.task_ignore_result is True
    assert app.backend.as_uri() == "disabled://"


def test_a_message_is_acknowledged_late_and_one_a_process_is_reserved() -> None:
    app = make_app(load_settings(engine_processes=2))
    conf = app.conf
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (True, True)
    assert conf.task_acks_on_timeout is False
    assert (conf.worker_concurrency, conf.worker_prefetch_multiplier) == (2, 2)
    assert make_app(load_settings()).conf.worker_concurrency == 1
    assert conf.worker_pool_start_method == "spawn"
    assert (
        conf.task_time_limit is None
    )  # the deadline is of progress, see clipfleet.tasks.worker.watchdog


def test_what_a_towers_workers_hold_is_counted_by_itself() -> None:
    options = make_app(load_settings(tower="img")).conf.broker_transport_options
    assert options["held"].queue == "clipfleet.img"
    assert options["visibility_timeout"] == 10


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("redis://127.0.0.1:6379/0", "redis"),
        ("rediss://127.0.0.1:6379/0", "rediss"),
        ("redis+socket:///run/redis.sock", "redis"),
    ],
)
def test_redis_is_reached_over_tcp_tls_or_a_socket(url: str, transport: str) -> None:
    connection = make_app(load_settings(redis_url=url)).connection()
    assert connection.transport_cls == transport


def test_the_child_gets_the_application_whole() -> None:
    app = make_app(load_settings(tower="txt", queue_prefix="fleet"))
    copy = pickle.loads(pickle.dumps(app))  # noqa: S301
    assert copy.conf.broker_transport_options == app.conf.broker_transport_options
    assert "clipfleet.tasks.embed_shard" in copy.conf.include
    assert settings_of(copy) == settings_of(app)


def test_celery_finds_the_application_by_the_modules_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module("clipfleet.tasks.app")
    monkeypatch.delitem(vars(module), "app", raising=False)
    assert module.app is module.app
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = module.other
    monkeypatch.delitem(vars(module), "app")


def test_a_certificate_is_checked_unless_the_url_says_otherwise() -> None:
    def tls_of(url: str) -> Any:
        with make_app(load_settings(redis_url=url)).connection_for_write() as connection:
            return connection.ssl

    assert tls_of("rediss://host/0") == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert tls_of("rediss://host/0?ssl_cert_reqs=none") == {"ssl_cert_reqs": ssl.CERT_NONE}
    assert not tls_of("redis://host/0")
