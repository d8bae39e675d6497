"""What is said about a Redis that stands open."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import AuthenticationError

from clipfleet.errors import BrokerError
from clipfleet.settings import load_settings
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.broker import security_check
from clipfleet.tasks.broker.redis_client import is_local
from clipfleet.tasks.broker.security_check import (
    accepts_anyone,
    log_security_warnings,
    security_warnings,
    without_credentials,
)
from clipfleet.tasks.submit.submit import submit
from clipfleet.tasks.worker.main import run_worker
from clipfleet.workers.engines.fake import write_fake_engine

SECRETS = "redis://fleet:hush@db.example:6379/0?password=hush"


class Server:
    """A server that asks for a password, or for none."""

    def __init__(self, url: str, *, asks: bool) -> None:
        self.url = url
        self._asks = asks

    def ping(self) -> bool:
        if self._asks:
            raise AuthenticationError("Authentication required.")
        return True

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def serve(monkeypatch: pytest.MonkeyPatch, *, asks: bool) -> list[str]:
    asked: list[str] = []

    def connect(url: str) -> Any:
        asked.append(url)
        return Server(url, asks=asks)

    monkeypatch.setattr(security_check, "connect", connect)
    return asked


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://:pw@127.8.9.1/0",
        "redis://[::1]:6379",
        "redis://localhost",
        "redis:///0",
        "redis+socket:///run/redis.sock?virtual_host=3",
    ],
)
def test_only_this_machine_reaches_loopback_and_sockets(url: str) -> None:
    assert is_local(url)


@pytest.mark.parametrize("url", ["redis://10.0.0.1", "redis://db", "rediss://[fe80::1]:6379"])
def test_a_server_that_takes_anybody_is_warned_of(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    serve(monkeypatch, asks=False)
    with caplog.at_level(logging.WARNING):
        log_security_warnings(url)
    (record,) = caplog.records
    assert f"Redis at {url} takes commands from anybody who reaches it" in record.getMessage()
    assert record.levelname == "WARNING"


def test_a_server_that_asks_is_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, asks=True)
    assert list(security_warnings(SECRETS)) == []
    assert asked == ["redis://db.example:6379/0"]  # as somebody without a password


def test_a_password_that_the_server_does_not_need_is_warned_of_without_showing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve(monkeypatch, asks=False)
    (warning,) = security_warnings(SECRETS)
    assert "redis://fleet:**@db.example:6379/0" in warning
    assert "hush" not in warning


def test_a_certificate_that_is_not_checked_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, asks=True)
    (warning,) = security_warnings("rediss://:hush@db.example/0?ssl_cert_reqs=none")
    assert "the certificate of Redis at rediss://:**@db.example/0" in warning
    assert list(security_warnings("rediss://:hush@db.example/0?ssl_ca_certs=/a.crt")) == []


def test_what_proves_who_one_is_is_left_out() -> None:
    url = "rediss://u:p@h:1/2?ssl_ca_certs=/a&ssl_certfile=/b&ssl_keyfile=/c&ssl_password=d&db=3"
    assert without_credentials(url) == "rediss://h:1/2?ssl_ca_certs=%2Fa&db=3"


def test_a_server_that_is_not_there_takes_nobody() -> None:
    assert not accepts_anyone("redis://127.0.0.1:1/0")


class AskedError(Exception):
    """The call that a test waits for."""


def _asked(url: str) -> None:
    raise AskedError(url)


def test_submit_and_worker_warn_at_their_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("submit.submit", "worker.main"):
        monkeypatch.setattr(f"clipfleet.tasks.{module}.check_broker", lambda *_, **__: None)
        monkeypatch.setattr(f"clipfleet.tasks.{module}.log_security_warnings", _asked)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as `run_worker` sets it
    for name in ("preflight", "set_up_logs"):
        monkeypatch.setattr(f"clipfleet.tasks.worker.main.{name}", lambda _: None)
    monkeypatch.setattr("clipfleet.tasks.worker.main.FatalErrorReport", lambda: None)
    settings = load_settings(redis_url="redis://db.example")
    model = write_fake_engine(tmp_path, "txt")
    with pytest.raises(AskedError, match=r"redis://db\.example"):
        submit(ListSource([]), str(tmp_path / "d"), model, settings=settings)
    with pytest.raises(AskedError, match=r"redis://db\.example"):
        run_worker(settings.model_copy(update={"model": str(model)}))
    local = load_settings(redis_url="redis+socket:///nowhere.sock")  # needs no warning
    with pytest.raises(BrokerError, match="does not answer"):
        submit(ListSource([]), str(tmp_path / "d"), model, settings=local)
