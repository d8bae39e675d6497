"""What Redis answers, where we read it ourselves: anybody may have put it there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from clipfleet.errors import ClipfleetError
from tasks.broker import connect, redacted
from tasks.queueing import all_in_redis
from tasks.refusals import Refusals
from tests.fuzz.target import Make, Target

_QUEUE = "clipfleet.txt"
_DATASET = "/vectors/a"
_PASSWORD = "not-to-be-told"
_REFUSAL = {"message": "shard 00001-0000000", "dataset": _DATASET, "reason": "gone", "time": "2026"}


class _Answers:
    """A client of a Redis in which every value is the same bytes."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def lrange(self, _: str, start: int, __: int) -> list[bytes]:
        return [] if start else [self._value]

    def hscan_iter(self, _: str, count: int) -> Iterator[tuple[bytes, bytes]]:
        yield self._value, self._value

    def hvals(self, _: str) -> list[bytes]:
        return [self._value]

    def hgetall(self, _: str) -> dict[bytes, bytes]:
        return {self._value: self._value}

    def hdel(self, _: str, *__: bytes) -> None:
        pass

    def pipeline(self, **_: Any) -> AbstractContextManager[_Answers]:
        return nullcontext(self)


def redis_value(folder: Path) -> Target:
    """A message that waits or is held, and a refusal."""

    def run(data: bytes) -> None:
        client: Any = _Answers(data)
        for shards in all_in_redis(client, _QUEUE).values():
            sorted(shards)
        refusals = Refusals(client, "clipfleet")
        refusals.forget(_DATASET)
        refusals.shards_of(_DATASET)
        for refusal in refusals.all():  # as `clipfleet status` shows them
            shown = f"refused {refusal.message}: {refusal.reason}"
            assert shown.isprintable(), "it would write to the terminal as it likes"

    message = {"headers": {"id": "0123456789ab.00001-0000000.1"}}
    seeds = (_REFUSAL, message, [message, "", _QUEUE], {**_REFUSAL, "reason": "\x1b[2J"})
    return Target(run=run, seeds=tuple(json.dumps(seed).encode() for seed in seeds))


def redis_url(folder: Path) -> Target:
    """A URL of Redis, of which a password begins in the middle: it is told nowhere."""

    def run(data: bytes) -> None:
        before, _, after = data.decode(errors="surrogateescape").partition("\0")
        user = before.partition("://")[2]
        if "@" not in after or set(user) & set("@/?#"):
            return  # what follows is no password, but a host or a database
        url = f"{before}:{_PASSWORD}{after}"
        assert _PASSWORD not in redacted(url), url
        told = ""
        try:
            connect(url).close()
        except ClipfleetError as error:
            told = str(error)
        assert _PASSWORD not in told, url

    seeds = (
        b"redis://user\0@h:6379/0",
        b"rediss://\0/?#@h?ssl_cert_reqs=none",
        b"redis+socket://\0@/a",
    )
    return Target(run=run, seeds=seeds)


REDIS_TARGETS: dict[str, Make] = {"redis_value": redis_value, "redis_url": redis_url}
