"""Redis URLs: how they are read, and that their passwords are shown nowhere."""

from __future__ import annotations

import inspect
import re
from urllib.parse import urlencode

import pytest
from redis.connection import (
    URL_QUERY_ARGUMENT_PARSERS,
    AbstractConnection,
    BlockingConnectionPool,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import ResponseError

from clipfleet.errors import BrokerError, SettingsError
from clipfleet.settings import load_settings
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.broker_url import parse_broker_url, redacted, secrets_of
from clipfleet.tasks.broker.redis_client import (
    MIN_VERSION,
    check_broker,
    connect,
    server_fault,
    unreachable,
)
from clipfleet.tasks.broker.url_options import OPTIONS


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
        ("redis://:abc@SECRETTAIL/xyz@127.0.0.1:6379/0", "redis://**@127.0.0.1:6379/0"),
        ("redis://host/0?password=a@tail", "redis://**"),
        ("redis://secret@host/0", "redis://**@host/0"),  # its colon was forgotten
        ("redis://:secrethost:6379/0", "redis://**"),  # its @ was forgotten
        ("redis://host/0?pass=secret", "redis://host/0?pass=**"),
        (":secret@host:1/0", "**@host:1/0"),
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


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("amqp://host", "expected redis://"),
        ("127.0.0.1:6379", "expected redis://"),
        ("", "expected redis://"),
        ("redis://:hush@host:port/0", "a port from 1 to 65535"),
        ("redis://:hushhost:6379/0", "a port from 1 to 65535"),
        ("redis://host/abc", "a database is a number"),
        ("redis://host/0?ssl_cert_reqs=none", "ssl_cert_reqs: for TLS only"),
        ("redis://host/0?protocol=4", "the option protocol: expected 2 or 3"),
        ("redis://host/0?socket_timeout=nan", "expected seconds above 0"),
        ("redis://host/0?sokcet_timeout=1", "did you mean socket_timeout"),
        ("redis://host/0?password=a&hush=1", "does not know an option:"),
        ("redis://host/0?db=1&db=2", "db is given twice"),
        ("redis://:abc@hush/xyz@127.0.0.1:6379/0", "write / as %2F"),
        ("redis+socket://host/run/r.sock", "redis\\+socket:///PATH"),
        ("rediss://host/0?ssl_cert_reqs=never", "required, optional or none"),
    ],
)
def test_a_wrong_url_is_a_wrong_setting(url: str, told: str) -> None:
    with pytest.raises(SettingsError, match="redis_url") as caught:
        connect(url)
    assert re.search(told, str(caught.value))
    assert "hush" not in str(caught.value)
    with pytest.raises(SettingsError, match="redis_url"):
        make_app(load_settings(redis_url=url))


def test_every_option_of_redis_py_works_or_is_refused_in_a_sentence() -> None:
    classes = (AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection)
    names = {
        name
        for made in (*classes, BlockingConnectionPool, ConnectionPool)
        for name in inspect.signature(made.__init__).parameters
    }
    names |= {*URL_QUERY_ARGUMENT_PARSERS}
    assert len(names) > 40  # none of them is missed by a change of redis-py
    for name in names:
        scheme = "rediss" if name.startswith("ssl_") else "redis"
        sample = _SAMPLES.get(name, "2")
        url = f"{scheme}://host/0?{urlencode({name: sample})}"
        if name in OPTIONS:
            connect(url).connection_pool.make_connection()  # redis-py takes what it is given
            make_app(load_settings(redis_url=url))
        else:
            with pytest.raises(SettingsError, match=name):
                connect(url)


_SAMPLES = {
    "socket_keepalive": "yes",
    "ssl_cert_reqs": "optional",
    "ssl_check_hostname": "false",
    "ssl_min_version": "771",
    "ssl_include_verify_flags": "[VERIFY_X509_STRICT]",
    "ssl_exclude_verify_flags": "VERIFY_X509_STRICT",
}


def test_celery_gets_the_same_login_without_the_options() -> None:
    url = parse_broker_url("rediss://u:p%40%3Bw@[::1]:7?db=2&socket_timeout=3&ssl_ca_certs=/a")
    assert url.for_kombu() == "rediss://u:p%40%3Bw@[::1]:7/2"
    assert url.for_client() == {
        "username": "u", "password": "p@;w", "host": "::1", "port": 7, "db": 2,
        "socket_timeout": 3.0, "ssl_ca_certs": "/a",
    }  # fmt: skip
    local = parse_broker_url("redis+socket://:pw@/run/r.sock?db=3")
    assert local.for_kombu() == "redis+socket://:pw@/run/r.sock?virtual_host=3"


def test_a_version_before_the_least_is_too_old() -> None:
    assert MIN_VERSION == (6, 2)
    assert "version 6.0.16, which is too old" in server_fault({"redis_version": "6.0.16"})
    assert server_fault({"redis_version": "6.2.0", "role": "master"}) == ""
    assert server_fault({"redis_version": "7.2.4", "valkey_version": "8.0.1"}) == ""


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
