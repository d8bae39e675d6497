"""Redis: parse and redact its URL, connect, and check that it answers."""

from __future__ import annotations

import ipaddress
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
from redis.exceptions import AuthenticationError, RedisError

from clipfleet.errors import BrokerError, SettingsError

Client = redis.Redis

CONNECT_TIMEOUT_S = 5.0
HIDDEN = "**"

_SCHEMES = ("redis", "rediss", "redis+socket")
_SECRET_PARAMETERS = {"password", "ssl_password"}
_OUT_OF_MEMORY = "memory > 'maxmemory'"  # part of Redis's error


def redacted(url: str) -> str:
    """Return a URL for messages and logs, with `**` in place of its passwords."""
    scheme, colon, rest = url.partition("://")
    if not colon or not scheme.replace("+", "").isalnum():  # misspelt: it may hold a password
        return f"{HIDDEN}@{url.rpartition('@')[2]}" if "@" in url else url
    if _has_odd_password(url):
        return f"{scheme}://{HIDDEN}@{rest.rpartition('@')[2]}"
    location, _, query = rest.partition("?")
    user, at, host = location.rpartition("@")
    if at and ":" in user:
        location = f"{user.partition(':')[0]}:{HIDDEN}@{host}"
    shown = [(k, HIDDEN if k in _SECRET_PARAMETERS else v) for k, v in parse_qsl(query)]
    parameters = f"?{urlencode(shown, safe='*/', errors='replace')}" if shown else ""
    return f"{scheme}://{location}{parameters}"


def secrets_of(url: str) -> list[str]:
    """Return the passwords in a URL, as written and decoded; logs must not show them."""
    query = url.partition("?")[2]
    found = [v for k, v in parse_qsl(query) if k in _SECRET_PARAMETERS]
    location = url.partition("://")[2] if _has_odd_password(url) else _netloc(url)
    user, at, _ = location.rpartition("@")
    written = user.partition(":")[2] if at else ""
    return [secret for secret in {written, unquote(written), *found} if secret]


def _has_odd_password(url: str) -> bool:
    """Return whether a password seems to contain /, ? or #, which end the URL's host."""
    rest = url.partition("://")[2]
    return "@" in rest and "@" not in _netloc(url)


def _netloc(url: str) -> str:
    """Return the user, host and port of a URL; "" if it cannot be parsed (one bracket)."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def connect(url: str) -> Client:
    """Return a client for a broker URL; it connects when it is first used.

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
        if _has_odd_password(url):  # the error would show a part of it
            raise SettingsError(
                f"redis_url {redacted(url)!r}: in a password, write / as %2F, ? as %3F, # as %23 "
                "and @ as %40"
            ) from None
        raise SettingsError(f"redis_url {redacted(url)!r}: {error}") from error


def check_broker(url: str, *, allow_eviction: bool = False) -> None:
    """Check that Redis answers, and deletes no messages when it is full.

    Raises:
        BrokerError: Redis does not answer, refuses the password, or evicts messages.
        SettingsError: The URL is wrong.
    """
    with connect(url) as client:
        try:
            policy = evicting_policy(client)
        except (RedisError, OSError) as error:
            raise unreachable(url, error) from error
    if policy and not allow_eviction:
        raise BrokerError(eviction_reason(url, policy))


def evicting_policy(client: Client) -> str:
    """Return the policy by which a full Redis deletes messages; "" if it refuses new ones instead.

    Redis needs a `maxmemory` to be full. A policy `volatile-…` deletes only keys that expire: locks
    and the list of refusals, but no messages.
    """
    memory = client.info("memory")
    policy = str(memory.get("maxmemory_policy", ""))
    return policy if memory.get("maxmemory") and policy.startswith("allkeys") else ""


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
    if isinstance(error, AuthenticationError):
        return BrokerError(
            f"Redis at {redacted(url)} refuses the password, or wants one ({reason}): set "
            "CLIPFLEET_REDIS_URL=redis://:PASSWORD@HOST:PORT/DB, with its own password"
        )
    return BrokerError(
        f"Redis at {redacted(url)} does not answer ({type(error).__name__}: {reason}): start it, "
        "or set CLIPFLEET_REDIS_URL"
    )


def _unix_url(url: str) -> str:
    """Convert kombu's URL of a Unix socket to redis-py's form."""
    location, _, query = url.partition("://")[2].partition("?")
    options = [("db" if k == "virtual_host" else k, v) for k, v in parse_qsl(query)]
    return f"unix://{location}" + (f"?{urlencode(options, safe='/')}" if options else "")
