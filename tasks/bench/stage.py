"""A stage of embedding: what it is, and how it is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from clipfleet.architectures import Tower

StageName = Literal[
    "list",
    "read_cold",  # files that the kernel was asked to drop from its cache before
    "read_warm",  # the same files once more
    "decode",
    "decode_resize",
    "tokenise",
    "copy",
    "resize",
    "engine",
    "embedder",
    "write",
    "whole",
]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The measurement of a stage: how many items it took in which time.

    `errors` counts those of its items that are errors. `limited_by` says what the stage uses.
    """

    name: StageName
    items: int
    seconds: float
    limited_by: str
    errors: int = 0
    size_bytes: int | None = None  # of the items, where the stage moves them

    @property
    def items_s(self) -> float:
        """Items a second."""
        return self.items / max(self.seconds, 1e-9)

    @property
    def bytes_s(self) -> float | None:
        """Bytes a second, where the stage moves the items' bytes."""
        return None if self.size_bytes is None else self.size_bytes / max(self.seconds, 1e-9)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What was measured: the engine, the machine, and the items.

    `batch_size` is the engine's number of items a call, None if it accepts any. `shard_size` is
    that of `embed`; `is_shard_reduced` says that the whole way had smaller shards, as so many items
    do not fit in the time. `jpeg_share` is the share of JPEG files in the items, 0 to 1.
    """

    tower: Tower
    runtime: str
    batch_size: int | None
    is_on_gpu: bool  # the engine
    takes_pictures: bool  # the GPU resizes
    cores: int
    decoders: int
    engine_processes: int  # of a worker
    shard_size: int
    jpeg_share: float
    is_shard_reduced: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """The items that one step of a stage took."""

    items: int
    errors: int = 0
    size_bytes: int = 0


Steps = Generator[Count, None, None]


def measure(
    name: StageName,
    steps: Steps,
    budget_s: float,
    *,
    limited_by: str,
    warm_up_items: int = 0,
    has_bytes: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Stage:
    """Take the steps of a stage until `budget_s` is over, or there are no more.

    The first steps, until they have `warm_up_items` items, are not counted. `steps` is closed.
    """
    items = errors = size_bytes = warm = 0
    with closing(steps):
        while warm < warm_up_items and (first := next(steps, None)) is not None:
            warm += first.items
        began_s = clock()
        seconds = 0.0
        for step in steps:
            items += step.items
            errors += step.errors
            size_bytes += step.size_bytes
            seconds = clock() - began_s
            if seconds >= budget_s:
                break
    return Stage(
        name=name,
        items=items,
        seconds=seconds,
        limited_by=limited_by,
        errors=errors,
        size_bytes=size_bytes if has_bytes else None,
    )
