"""Presence: what each worker says of itself in Redis, every second, for `clipfleet status`.

A presence is a key that expires, so that a killed worker is gone after seconds; a set has the names
of the workers. A worker writes with one round trip, and a reader reads all with two.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipfleet.architectures import Tower
from clipfleet.tasks.broker.redis_client import Client

EXPIRES_S = 10
_KEPT_S = 24 * 3600  # the names, after the last worker's end
_STRICT = ConfigDict(extra="ignore")


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class RunningShard:
    """A shard that a worker embeds now: `done` of its `items` have a vector or an error."""

    dataset: str  # as its message names it
    name: str
    items: NonNegativeInt
    done: NonNegativeInt


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Presence:
    """A worker: `items` counts those since its start, `items_per_s` is of the last 15 s.

    `gpu` is that of a TensorRT engine, None for another runtime. `shard` names the dataset and the
    shard that it began last.
    """

    worker: str
    host: str
    tower: Tower
    runtime: str
    gpu: str | None
    items: NonNegativeInt
    items_per_s: NonNegativeFloat
    shard: str = ""
    running: tuple[RunningShard, ...] = ()


_PRESENCE = TypeAdapter(Presence)


class Presences:
    """The presences of a fleet's workers."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._names = f"{prefix}.workers"
        self._prefix = f"{prefix}.worker."

    def write(self, presence: Presence) -> None:
        """Say that a worker lives, for the next ten seconds."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(f"{self._prefix}{presence.worker}", _json(presence), ex=EXPIRES_S)
            pipe.sadd(self._names, presence.worker)
            pipe.expire(self._names, _KEPT_S)
            pipe.execute()

    def delete(self, worker: str) -> None:
        """Take back the presence of a worker that ends."""
        self._client.delete(f"{self._prefix}{worker}")
        self._client.srem(self._names, worker)

    def all(self) -> list[Presence]:
        """Return the presences of the workers that live, by name; names of others are deleted."""
        found: Any = self._client.smembers(self._names)
        names = sorted(name.decode(errors="replace") for name in found)
        if not names:
            return []
        told: Any = self._client.mget([f"{self._prefix}{name}" for name in names])
        gone = [name for name, text in zip(names, told, strict=True) if text is None]
        if gone:
            self._client.srem(self._names, *gone)
        return [presence for text in told if text and (presence := _parsed(text))]


def _json(presence: Presence) -> bytes:
    return _PRESENCE.dump_json(presence)


def _parsed(text: bytes) -> Presence | None:
    try:
        return _PRESENCE.validate_json(text)
    except ValidationError:  # of another version
        return None
