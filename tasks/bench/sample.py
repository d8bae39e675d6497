"""The sample: the first items of a source, and how fast their files are read."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

from clipfleet.errors import ItemError, SourceError, UsageError
from clipfleet.items import Item
from clipfleet.storage.filesystem.members import (
    Base64Text,
    ParquetPicture,
    TarMember,
    ZipMember,
    file_path,
    is_fetched,
    parse_member,
)
from clipfleet.storage.sources.base import Source
from clipfleet.tasks.bench.stage import Count, Stage, Steps, measure
from clipfleet.workers.images.decode import ImageLimits, read_image_bytes

# More would not stay in the cache of a small machine until the later stages.
_MAX_BYTES = 2 << 30
_LISTED = 256  # items between two looks at the clock


def take_sample(source: Source, limit: int, budget_s: float) -> tuple[list[Item], Stage]:
    """Return the first items of a source, and how fast it lists them.

    Raises:
        SourceError: The source is empty, or cannot be read.
        UsageError: An item is a URL.
    """
    items: list[Item] = []

    def steps() -> Steps:
        listed = iter(source)
        while block := list(islice(listed, min(_LISTED, limit - len(items)))):
            items.extend(block)
            yield Count(items=len(block))

    stage = measure("list", steps(), budget_s, limited_by="the source, read by one thread")
    if not items:
        raise SourceError(f"{source.description} holds no item: there is nothing to measure")
    for item in items:
        if item.uri is not None and is_fetched(item.uri):
            raise UsageError(
                f"item {item.id!r} is at a URL, {item.uri}: bench measures files, as a measurement "
                "of a server would load it; download some of the images, and measure those"
            )
    return items, stage


def read_cold(
    items: Sequence[Item], limits: ImageLimits, budget_s: float, *, threads: int
) -> Stage:
    """Read files which the kernel is asked to drop from its cache before.

    The kernel keeps files that are not written to the disk yet, and a disk has a cache of its own.
    """
    items = _first_bytes(items)
    _drop_from_cache(items, budget_s)
    return measure(
        "read_cold",
        _reads(items, limits, threads),
        budget_s,
        limited_by=f"the disk, {threads} reads at once",
        has_bytes=True,
    )


def read_warm(
    items: Sequence[Item], limits: ImageLimits, budget_s: float, *, threads: int
) -> Stage:
    """Read files that are in the kernel's cache."""
    return measure(
        "read_warm",
        _reads(items, limits, threads),
        budget_s,
        limited_by=f"this process, {threads} threads, files in the cache",
        has_bytes=True,
    )


def _first_bytes(items: Sequence[Item]) -> Sequence[Item]:
    """Return the first items, whose files have `_MAX_BYTES` together."""
    size_bytes = 0
    for number, item in enumerate(items):
        with suppress(OSError, UsageError, ValueError):  # reading it counts the error
            size_bytes += _size_bytes(item.uri or "")
        if size_bytes > _MAX_BYTES and number:
            return items[:number]
    return items


def _size_bytes(uri: str) -> int:
    member = parse_member(uri)
    if isinstance(member, TarMember | ZipMember | Base64Text):
        return member.size
    if isinstance(member, ParquetPicture):
        return 0  # unknown without a look into the file; the time limit holds
    return os.path.getsize(file_path(uri))


def _drop_from_cache(
    items: Sequence[Item], budget_s: float, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Ask the kernel to drop files from its cache, as far as it does so in `budget_s`."""
    began_s = clock()
    for item in items:
        with suppress(OSError, UsageError, ValueError):  # as above
            path = file_path(item.uri or "")
            if os.path.isfile(path):  # opening a pipe or a device may have an effect
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(file)
        if clock() - began_s >= budget_s:
            return


def _reads(items: Sequence[Item], limits: ImageLimits, threads: int) -> Steps:
    """Read the files of items, and yield a count for each in order."""

    def read(item: Item) -> Count:
        try:
            return Count(items=1, size_bytes=len(read_image_bytes(item, limits)[0]))
        except ItemError:
            return Count(items=1, errors=1)

    ahead: deque[Future[Count]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        for item in items:
            ahead.append(pool.submit(read, item))
            if len(ahead) >= 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
