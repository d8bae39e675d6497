"""The URL of Redis, which has a password in it."""

from __future__ import annotations

from pathlib import Path

from clipfleet.errors import ClipfleetError
from clipfleet.tasks.broker.broker_url import redacted
from clipfleet.tasks.broker.redis_client import connect
from tests.fuzz.target import Make, Target

_PASSWORD = "not-to-be-shown"


def redis_url(folder: Path) -> Target:
    """A URL of Redis with a password in the middle: no error shows the password."""

    def run(data: bytes) -> None:
        before, _, after = data.decode(errors="surrogateescape").partition("\0")
        user = before.partition("://")[2]
        if "@" not in after or set(user) & set("@/?#"):
            return  # the rest is a host or a database
        url = f"{before}:{_PASSWORD}{after}"
        assert _PASSWORD not in redacted(url), url
        message = ""
        try:
            connect(url).close()
        except ClipfleetError as error:
            message = str(error)
        assert _PASSWORD not in message, url

    seeds = (
        b"redis://user\0@h:6379/0",
        b"rediss://\0/?#@h?ssl_cert_reqs=none",
        b"redis+socket://\0@/a",
    )
    return Target(run=run, seeds=seeds)


REDIS_TARGETS: dict[str, Make] = {"redis_url": redis_url}
