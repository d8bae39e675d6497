"""Redis: how its URL is read and shown, whether it answers, and how long a queue is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
from redis.exceptions import AuthenticationError, RedisError

from clipfleet.errors import BrokerError, SettingsError

Client = redis.Redis

CONNECT_TIMEOUT_S = 5.0
HIDDEN = "**"

_SCHEMES = ("redis", "rediss", "redis+socket")
_SECRET_PARAMETERS = {"password", "ssl_password"}
# Celery keeps a list for each of these priorities; 0 has the queue's own name.
_PRIORITY_SEPARATOR = "\x06\x16"
_PRIORITIES = (3, 6, 9)
_SCAN_MESSAGES = 1000  # a round trip
_OUT_OF_MEMORY = "memory > 'maxmemory'"  # how Redis refuses to write


def redacted(url: str) -> str:
    """Return a URL with its passwords replaced by `**`, fit for messages and logs."""
    scheme, colon, rest = url.partition("://")
    if not colon or not scheme.replace("+", "").isalnum():  # misspelt: it may have a password
        return f"{HIDDEN}@{url.rpartition('@')[2]}" if "@" in url else url
    if _has_odd_password(url):
        return f"{scheme}://{HIDDEN}@{rest.rpartition('@')[2]}"
    place, _, query = rest.partition("?")
    user, at, host = place.rpartition("@")
    if at:
        place = f"{user.partition(':')[0]}:{HIDDEN}@{host}" if ":" in user else place
    shown = [(k, HIDDEN if k in _SECRET_PARAMETERS else v) for k, v in parse_qsl(query)]
    asked = f"?{urlencode(shown, safe='*/', errors='replace')}" if shown else ""
    return f"{scheme}://{place}{asked}"


def secrets_of(url: str) -> list[str]:
    """Return what must never be logged of a URL: its passwords, as written and as meant."""
    query = url.partition("?")[2]
    found = [v for k, v in parse_qsl(query) if k in _SECRET_PARAMETERS]
    place = url.partition("://")[2] if _has_odd_password(url) else _netloc(url)
    user, at, _ = place.rpartition("@")
    written = user.partition(":")[2] if at else ""
    return [secret for secret in {written, unquote(written), *found} if secret]


def _has_odd_password(url: str) -> bool:
    """Return whether a password seems to hold a character that ends a URL's server: /, ? or #."""
    rest = url.partition("://")[2]
    return "@" in rest and "@" not in _netloc(url)


def _netloc(url: str) -> str:
    """Return what stands before a URL's path; "" if that cannot be told, as of half a bracket."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def connect(url: str) -> Client:
    """Return a client of the Redis at a broker URL; nothing is sent yet.

    Raises:
        SettingsError: The URL is not one of redis://, rediss://, redis+socket://.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise SettingsError(
            f"redis_url {redacted(url)!r}: expected redis://HOST:PORT/DB, rediss://… (TLS) or "
            "redis+socket:///PATH?virtual_host=DB"
        )
    timeouts = {"socket_timeout": 30.0, "socket_connect_timeout": CONNECT_TIMEOUT_S}
    try:
        if scheme == "redis+socket":
            return redis.Redis.from_url(_unix_url(url), socket_timeout=30.0)
        return redis.Redis.from_url(url, **timeouts)
    except ValueError as error:
        if _has_odd_password(url):  # the error would show a piece of it
            raise SettingsError(
                f"redis_url {redacted(url)!r}: in a password, write / as %2F, ? as %3F, # as %23 "
                "and @ as %40"
            ) from None
        raise SettingsError(f"redis_url {redacted(url)!r}: {error}") from error


def check_broker(url: str) -> None:
    """Make sure that Redis answers.

    Raises:
        BrokerError: It does not, or refuses the password.
        SettingsError: The URL is wrong.
    """
    broker_version(url)


def broker_version(url: str) -> str:
    """Return the server's name, version and (redacted) URL.

    Raises:
        BrokerError: It does not answer, or refuses the password.
        SettingsError: The URL is wrong.
    """
    with connect(url) as client:
        try:
            client.ping()
            info = client.info("server")
        except (RedisError, OSError) as error:
            raise unreachable(url, error) from error
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version", info["redis_version"])
    return f"{name} {version} at {redacted(url)}"


def unreachable(url: str, error: Exception) -> BrokerError:
    """Return the error that says why Redis cannot be used, without its password."""
    reason = str(error)
    for secret in secrets_of(url):
        reason = reason.replace(secret, HIDDEN)
    if _OUT_OF_MEMORY in reason:
        return BrokerError(
            f"Redis at {redacted(url)} is out of memory ({reason}): wait until workers have made "
            "room, or raise its maxmemory"
        )
    if isinstance(error, AuthenticationError):
        return BrokerError(
            f"Redis at {redacted(url)} refuses the password, or wants one ({reason}): set "
            "CLIPFLEET_REDIS_URL=redis://:PASSWORD@HOST:PORT/DB, with its own password"
        )
    return BrokerError(
        f"Redis at {redacted(url)} does not answer ({type(error).__name__}: {reason}): start it, "
        "or set CLIPFLEET_REDIS_URL"
    )


def message_counts(client: Client, queue: str) -> tuple[int, int]:
    """Return how many messages of a queue wait, and how many workers hold."""
    return queue_length(client, queue), held_length(client, queue)


def queue_length(client: Client, queue: str) -> int:
    """Return how many messages wait in a queue, of all priorities."""
    with client.pipeline(transaction=False) as pipe:
        for name in _lists(queue):
            pipe.llen(name)
        return sum(pipe.execute())


def unacked_key(queue: str) -> str:
    """Return the hash of the messages of a queue that workers hold, unacknowledged."""
    return f"{queue}.unacked"


def held_length(client: Client, queue: str) -> int:
    """Return how many messages of a queue workers hold: running, reserved or gathered."""
    return int(client.hlen(unacked_key(queue)))


def waiting_messages(client: Client, queue: str) -> Iterator[Any]:
    """Yield the messages that wait in a queue; one that moves meanwhile may come twice."""
    for name in _lists(queue):
        # From the end at which messages come in: those that workers take shift none.
        start = 0
        while batch := client.lrange(name, start, start + _SCAN_MESSAGES - 1):
            yield from filter(None, map(_parsed, batch))
            start += len(batch)


def held_messages(client: Client, queue: str) -> Iterator[Any]:
    """Yield the messages of a queue that workers hold, unacknowledged."""
    for _, value in client.hscan_iter(unacked_key(queue), count=_SCAN_MESSAGES):
        entry = _parsed(value)  # [message, exchange, routing key]
        if isinstance(entry, list) and entry:
            yield entry[0]


def _parsed(value: bytes | str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None  # garbage


def _lists(queue: str) -> list[str]:
    return [queue, *(f"{queue}{_PRIORITY_SEPARATOR}{step}" for step in _PRIORITIES)]


def _unix_url(url: str) -> str:
    """Return redis-py's form of kombu's URL of a Unix socket."""
    place, _, query = url.partition("://")[2].partition("?")
    options = [("db" if k == "virtual_host" else k, v) for k, v in parse_qsl(query)]
    return f"unix://{place}" + (f"?{urlencode(options, safe='/')}" if options else "")
