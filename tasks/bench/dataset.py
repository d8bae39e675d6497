"""The stages that write a dataset: committing parts, and the whole way with a worker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np

from clipfleet.items import Item
from clipfleet.model_card import ModelCard
from clipfleet.settings import Settings
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import Manifest, read_records
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.bench.stage import Count, Stage, Steps, measure
from clipfleet.tasks.local.run import embed_source
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.base import l2_normalise


@dataclass(frozen=True, kw_only=True)
class WrittenPart:
    """A part: how many vectors and errors it has, which worker wrote it, and when."""

    items: int
    errors: int
    worker: str
    written_s: float


def write_parts(
    folder: Path, items: Sequence[Item], budget_s: float, embedder: Embedder, *, shard_size: int
) -> Stage:
    """Commit shards of invented vectors into a new dataset at `folder`, as a worker does."""
    card, dtype = embedder.card, embedder.settings.embedding_dtype
    dataset = Dataset.create(str(folder), card, kind="planned", embedding_dtype=dtype)
    shard = _shard_of(items, shard_size, card)

    def steps() -> Steps:
        for number in count():
            done = commit(dataset, f"00001-{number:07d}", shard, card=card, worker="bench")
            yield Count(items=shard_size, size_bytes=os.path.getsize(folder / done.part))

    disk = folder.parent.parent  # above the folder of this measurement
    limited_by = f"the disk of {disk}, {shard_size:,} items a shard"
    return measure("write", steps(), budget_s, limited_by=limited_by, has_bytes=True)


def _shard_of(items: Sequence[Item], shard_size: int, card: ModelCard) -> Embedded:
    """Return a shard's vectors, all different: equal ones would be compressed."""
    random = np.random.default_rng(0).standard_normal((shard_size, card.dim))
    return Embedded(
        items=list(islice(cycle(items), shard_size)),
        vectors=l2_normalise(random),
        sizes=[(500, 375)] * shard_size if card.tower == "img" else None,
        failures=[],
    )


def whole_way(folder: Path, items: Sequence[Item], total: int, settings: Settings) -> Stage:
    """Embed `total` items into a new dataset with a worker, as `clipfleet embed` does.

    The time is that of the steady part: from the end of the first shard to the end of the last.

    Raises:
        BrokerError: Redis does not start.
        EngineError: The worker does not start, or refuses the work.
    """
    embed_source(
        ListSource(_with_new_ids(items, total)),
        str(folder),
        str(settings.model),
        settings=settings,
        own_redis=True,
    )
    parts = written_parts(folder)
    taken, seconds = steady_part(parts)
    return Stage(
        name="whole",
        items=taken,
        seconds=seconds,
        limited_by=f"one worker, {len(parts)} shards of {settings.shard_size:,} items",
        errors=sum(part.errors for part in parts),
    )


def _with_new_ids(items: Sequence[Item], total: int) -> list[Item]:
    """Return `total` items with ids of their own."""
    some = islice(cycle(items), total)
    return [Item(id=f"{n}", uri=item.uri, text=item.text) for n, item in enumerate(some)]


def written_parts(folder: Path) -> list[WrittenPart]:
    """Return the parts of a dataset on a disk.

    Raises:
        DatasetError: There is no dataset, or it is damaged.
    """
    dataset = Dataset.open(str(folder))
    manifest = Manifest(dataset)
    manifest.refresh()
    return [
        WrittenPart(
            items=record.vectors + record.errors,
            errors=record.errors,
            worker=record.worker,
            written_s=os.stat(folder / record.part).st_mtime,
        )
        for _, record in read_records(dataset, manifest.names)
    ]


def steady_part(parts: Sequence[WrittenPart]) -> tuple[int, float]:
    """Return the items and the seconds after the moment at which each worker had written a part.

    Both are 0 if no part was written after this moment.
    """
    firsts: dict[str, float] = {}
    for part in parts:
        firsts[part.worker] = min(part.written_s, firsts.get(part.worker, part.written_s))
    begin_s = max(firsts.values(), default=0.0)
    later = [part for part in parts if part.written_s > begin_s]
    end_s = max((part.written_s for part in later), default=begin_s)
    return sum(part.items for part in later), end_s - begin_s
