"""Exposure: what is said at the start about a Redis that anybody may command.

Whoever can write to Redis can queue, drop and reorder work. On loopback or a Unix socket those
are this machine's users; on a network they are whoever reaches the port.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.exceptions import RedisError

from clipfleet.errors import SettingsError
from clipfleet.tasks.broker.redis_client import connect, redacted

_UNVERIFIED = {"none", "cert_none"}
_CREDENTIALS = {"username", "password", "ssl_certfile", "ssl_keyfile", "ssl_password"}
_PAGE = "see docs/explanation/security.md"

log = logging.getLogger(__name__)


def warn_of_exposure(url: str) -> None:
    """Log a warning for each way in which the Redis at a broker URL stands open."""
    for warning in exposures(url):
        log.warning(warning)


def exposures(url: str) -> Iterator[str]:
    """Yield what is wrong with how a server is reached, in sentences without its password."""
    if is_local(url):
        return
    shown = redacted(url)
    if takes_anybody(url):
        yield (
            f"Redis at {shown} takes commands from anybody who reaches it, without a password: set "
            f"requirepass or an ACL user, and put them into CLIPFLEET_REDIS_URL; {_PAGE}"
        )
    if dict(parse_qsl(urlsplit(url).query)).get("ssl_cert_reqs", "").lower() in _UNVERIFIED:
        yield (
            f"the certificate of Redis at {shown} is not checked, so another server may stand in "
            f"for it: use ssl_cert_reqs=required and ssl_ca_certs=FILE; {_PAGE}"
        )


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


def takes_anybody(url: str) -> bool:
    """Return whether the server answers one who gives no user, password or certificate."""
    try:
        with connect(anonymous(url)) as client:
            return bool(client.ping())
    except (RedisError, SettingsError, OSError):
        return False  # refused; a server that is not there is another's finding


def anonymous(url: str) -> str:
    """Return a URL without what proves who one is."""
    parts = urlsplit(url)
    kept = [(k, v) for k, v in parse_qsl(parts.query) if k not in _CREDENTIALS]
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=place, query=urlencode(kept)))
