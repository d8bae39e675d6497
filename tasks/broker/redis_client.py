"""Redis: connect, check that it can carry messages, and say what is wrong with it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from clipfleet.errors import BrokerError
from clipfleet.tasks.broker.broker_url import (
    HIDDEN,
    BrokerUrl,
    parse_broker_url,
    redacted,
    secrets_of,
)

Client = redis.Redis

CONNECT_TIMEOUT_S = 5.0
MIN_VERSION = (6, 2)  # `ZRANGE … BYSCORE` and `LMOVE` are of 6.2

_TIMEOUTS = {"socket_timeout": 30.0, "socket_connect_timeout": CONNECT_TIMEOUT_S}
_OUT_OF_MEMORY = "memory > 'maxmemory'"  # part of Redis's error


def connect(url: str, *, timeout_s: float | None = None) -> Client:
    """Return a client for a broker URL; it connects when it is first used.

    `timeout_s` limits a connection and an answer; without it, the URL or clipfleet does.

    Raises:
        SettingsError: The URL is wrong; see `parse_broker_url`.
    """
    changes = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    return _client_of(parse_broker_url(url), **(changes if timeout_s is not None else {}))


def _client_of(broker: BrokerUrl, **changes: Any) -> Client:
    kinds = {"redis": Connection, "rediss": SSLConnection}
    return redis.Redis.from_pool(
        redis.ConnectionPool(
            connection_class=kinds.get(broker.scheme, UnixDomainSocketConnection),
            **{**_TIMEOUTS, **broker.for_client(), **changes},
        )
    )


def check_broker(url: str, *, allow_eviction: bool = False) -> None:
    """Check that Redis answers, can carry messages, and deletes none when it is full.

    Raises:
        BrokerError: Redis does not answer or refuses the user; it is too old, a replica or a
            cluster; or it evicts messages.
        SettingsError: The URL is wrong.
    """
    with connect(url) as client:
        try:
            info: dict[str, Any] = client.info()
        except (RedisError, OSError) as error:
            raise unreachable(url, error) from error
    if fault := server_fault(info):
        raise BrokerError(f"Redis at {redacted(url)} {fault}")
    policy = _evicting(info)
    if policy and not allow_eviction:
        raise BrokerError(eviction_reason(url, policy))


def server_fault(info: Mapping[str, Any]) -> str:
    """Return why a server cannot carry messages, from its answer to INFO; "" if it can."""
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in re.findall("[0-9]+", version)[:2])
    if numbers and numbers < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        return f"is version {version}, which is too old: clipfleet needs {least} or later"
    if info.get("cluster_enabled"):
        return (
            "is a node of a Redis Cluster, which moves keys between servers: name a Redis with "
            "cluster-enabled no"
        )
    if info.get("role") == "slave":
        master = f"{info.get('master_host')}:{info.get('master_port')}"
        return f"is a replica, which takes no messages: name its master, {master}"
    return ""


def evicting_policy(client: Client) -> str:
    """Return the policy by which a full Redis deletes messages; "" if it refuses new ones instead.

    Redis needs a `maxmemory` to be full. A policy `volatile-…` deletes only keys that expire: locks
    and the list of refusals, but no messages.
    """
    return _evicting(client.info("memory"))


def _evicting(info: Mapping[str, Any]) -> str:
    policy = str(info.get("maxmemory_policy", ""))
    return policy if info.get("maxmemory") and policy.startswith("allkeys") else ""


def eviction_reason(url: str, policy: str) -> str:
    """Return what is wrong with an evicting policy, and the remedy."""
    return (
        f"Redis at {redacted(url)} deletes queued messages when it is full (maxmemory-policy "
        f"{policy}): set its maxmemory-policy to noeviction, or CLIPFLEET_ALLOW_EVICTION=true to "
        "accept lost items"
    )


def broker_version(url: str) -> str:
    """Return the server's name, version and (redacted) URL.

    Raises:
        BrokerError: Redis does not answer, or refuses the password.
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


def is_local(url: str) -> bool:
    """Return whether a broker URL names a Unix socket or this machine's loopback."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    if parts.scheme == "redis+socket" or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name


def is_out_of_memory(error: Exception) -> bool:
    """Return whether Redis refused a command because it is out of memory."""
    return _OUT_OF_MEMORY in str(error)


def unreachable(url: str, error: Exception) -> BrokerError:
    """Return the error for a Redis that cannot be used, without its password."""
    reason = str(error)
    for secret in secrets_of(url):
        reason = reason.replace(secret, HIDDEN)
    if is_out_of_memory(error):
        return BrokerError(
            f"Redis at {redacted(url)} is out of memory ({reason}): wait until workers have made "
            "room, or raise its maxmemory"
        )
    if isinstance(error, RedisError) and (fault := _refusal(url, error)):
        return BrokerError(f"Redis at {redacted(url)} {fault} ({reason})")
    return BrokerError(
        f"Redis at {redacted(url)} does not answer ({type(error).__name__}: {reason}): start it, "
        "or set CLIPFLEET_REDIS_URL"
    )


def _refusal(url: str, error: RedisError) -> str:
    """Return what a server's refusal means; "" for another error."""
    text = str(error)
    if isinstance(error, AuthenticationError):
        if secrets_of(url):
            return "refuses the user or the password: set the right ones in CLIPFLEET_REDIS_URL"
        return (
            "wants a password: set CLIPFLEET_REDIS_URL=redis://:PASSWORD@HOST:PORT/DB, with its "
            "own password"
        )
    if isinstance(error, NoPermissionError):
        return (
            "does not allow this user a command or a key: give the user the rights of "
            "docs/explanation/security.md"
        )
    if isinstance(error, ReadOnlyError):
        return "is a replica, which takes no messages: name its master"
    if "DB index is out of range" in text:
        return (
            f"has no database {parse_broker_url(url).db}: name one below its setting `databases`, "
            "which is 16 unless it was changed"
        )
    if "cluster mode" in text or text.startswith(("MOVED", "CROSSSLOT")):
        return "is a node of a Redis Cluster: name a Redis with cluster-enabled no"
    if isinstance(error, ResponseError) and "unknown command" in text and "HELLO" in text:
        return f"is version {_version_before_hello(url)}, which is too old: use 6.2 or later"
    return ""


def _version_before_hello(url: str) -> str:
    """Return the version of a server before 6.0, which does not know redis-py's first command."""
    try:
        with _client_of(parse_broker_url(url), protocol=2) as client:
            return str(client.info("server")["redis_version"])
    except (RedisError, OSError):
        return "5 or earlier"
