"""Security check: warn at the start about a Redis on a network that is not protected.

A program that can write to Redis can queue, drop and reorder work. On loopback or a Unix socket,
only this machine's users can; on a network, every host that reaches the port.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.exceptions import RedisError

from clipfleet.errors import SettingsError
from clipfleet.tasks.broker.broker_url import redacted
from clipfleet.tasks.broker.redis_client import connect

_UNVERIFIED = {"none", "cert_none"}
_CREDENTIALS = {"username", "password", "ssl_certfile", "ssl_keyfile", "ssl_password"}
_PAGE = "see docs/explanation/security.md"

log = logging.getLogger(__name__)


def log_security_warnings(url: str) -> None:
    """Log a warning for each way in which the Redis at a broker URL is not protected."""
    for warning in security_warnings(url):
        log.warning(warning)


def security_warnings(url: str) -> Iterator[str]:
    """Yield warnings about a Redis on a network, without its password; `is_local` needs none."""
    shown = redacted(url)
    if accepts_anyone(url):
        yield (
            f"Redis at {shown} takes commands from anybody who reaches it, without a password: set "
            f"requirepass or an ACL user, and put them into CLIPFLEET_REDIS_URL; {_PAGE}"
        )
    if dict(parse_qsl(urlsplit(url).query)).get("ssl_cert_reqs", "").lower() in _UNVERIFIED:
        yield (
            f"the certificate of Redis at {shown} is not checked, so another server may stand in "
            f"for it: use ssl_cert_reqs=required and ssl_ca_certs=FILE; {_PAGE}"
        )


def accepts_anyone(url: str) -> bool:
    """Return whether the server answers a client without user, password or certificate."""
    try:
        with connect(without_credentials(url)) as client:
            return bool(client.ping())
    except (RedisError, SettingsError, OSError):
        return False  # refused; `check_broker` reports a server that does not answer


def without_credentials(url: str) -> str:
    """Return a URL without its user, passwords and client certificate."""
    parts = urlsplit(url)
    kept = [(k, v) for k, v in parse_qsl(parts.query) if k not in _CREDENTIALS]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, query=urlencode(kept)))
