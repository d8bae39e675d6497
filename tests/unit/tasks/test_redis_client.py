"""Redis URLs: how they are read, and that their passwords are shown nowhere."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from clipfleet.errors import BrokerError, SettingsError
from clipfleet.tasks.broker.redis_client import (
    check_broker,
    connect,
    redacted,
    secrets_of,
    unreachable,
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@host:1/0", "redis://:**@host:1/0"),
        (
            "rediss://user:s%40c@host/0?ssl_cert_reqs=none",
            "rediss://user:**@host/0?ssl_cert_reqs=none",
        ),
        ("redis://:a@b:c@host/0", "redis://:**@host/0"),
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=**&db=1"),
        ("redis+socket:///run/r.sock?virtual_host=3", "redis+socket:///run/r.sock?virtual_host=3"),
        ("redis+socket://:secret@/run/r.sock", "redis+socket://:**@/run/r.sock"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_what_must_not_be_logged_is_known_as_written_and_as_meant() -> None:
    assert set(secrets_of("redis://u:s%40c@host/0?password=other")) == {"s%40c", "s@c", "other"}
    assert secrets_of("redis://host/0") == []


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        ("redis://:pw@host:7/2", {"host": "host", "port": 7, "db": 2, "password": "pw"}),
        ("redis+socket:///run/r.sock?virtual_host=3", {"path": "/run/r.sock", "db": 3}),
        ("redis+socket://:pw@/run/r.sock", {"path": "/run/r.sock", "password": "pw"}),
    ],
)
def test_a_client_is_made_from_celerys_urls(url: str, parameters: dict[str, object]) -> None:
    client = connect(url)
    made = client.connection_pool.connection_kwargs
    assert {name: made.get(name) for name in parameters} == parameters
    assert connect("rediss://host/0").connection_pool.connection_class.__name__ == "SSLConnection"


@pytest.mark.parametrize("url", ["amqp://host", "127.0.0.1:6379", "", "redis://:hush@host:port/0"])
def test_a_wrong_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="redis_url") as caught:
        connect(url)
    assert "hush" not in str(caught.value)


def test_no_redis_is_an_error_without_the_password() -> None:
    with pytest.raises(BrokerError, match=r"redis://:\*\*@127.0.0.1:1/0 does not answer") as caught:
        check_broker("redis://:hush@127.0.0.1:1/0")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("password", ["pa/hush", "pa?hush", "pa#hush", "pa/hu@sh", "hush/"])
def test_a_password_that_should_have_been_escaped_is_shown_in_no_piece(password: str) -> None:
    url = f"redis://fleet:{password}@db.example:6379/0"
    assert "hush" not in redacted(url)
    assert "pa" not in redacted(url).partition("@")[0].removeprefix("redis://")
    assert redacted(url).endswith("@db.example:6379/0")
    assert password in secrets_of(url)
    with pytest.raises(SettingsError, match="write / as %2F") as caught:
        connect(url)
    assert "hush" not in str(caught.value)
    assert "pa" not in str(caught.value).partition("password")[0]


def test_the_passphrase_of_a_key_is_a_secret_too() -> None:
    url = "rediss://host/0?ssl_keyfile=/a.key&ssl_password=hush"
    assert redacted(url) == "rediss://host/0?ssl_keyfile=/a.key&ssl_password=**"
    assert secrets_of(url) == ["hush"]


def test_a_redis_without_memory_is_not_said_to_be_away() -> None:
    refused = ResponseError("command not allowed when used memory > 'maxmemory'.")
    told = str(unreachable("redis://:hush@h:1/0", refused))
    assert told.startswith("Redis at redis://:**@h:1/0 is out of memory (command not allowed")
    assert "raise its maxmemory" in told
    assert "does not answer" in str(unreachable("redis://h:1/0", OSError("refused")))
