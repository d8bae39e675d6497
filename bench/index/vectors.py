"""Make two datasets of one model from a seed: pictures and captions, without any engine.

    python -m bench.index.vectors OUT --rows 1000000 --texts 100000 --seed 7

`OUT/images` and `OUT/texts` are whole datasets, which `clipfleet verify` accepts; the pictures
themselves do not exist. `OUT/test_texts.jsonl` says which picture each caption describes, in the
form of Chinese-CLIP's data. About 3 % of the pictures are near-copies of others. Equal arguments
give equal vectors. Memory holds 16,384 rows at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from bench.index.world import DIM, Vectors, World, near_copies
from clipfleet.architectures import Tower
from clipfleet.items import Item
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.jobs import shards
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.sources.base import Source
from clipfleet.workers.engines.fake import fake_card

_SHARD_ROWS = 4096
_BATCH_ROWS = 4 * _SHARD_ROWS
_COPIES = 0.03  # share of near-copies
_SIZE = (640, 480)  # of each picture, in pixels


class Numbered(Source):
    """So many pictures or captions, with their numbers as ids."""

    folder = None

    def __init__(self, tower: Tower, count: int) -> None:
        self.description = f"{count} made {tower} vectors"
        self._tower = tower
        self._count = count

    def __iter__(self) -> Iterator[Item]:
        for n in range(self._count):
            if self._tower == "img":
                yield Item(id=str(n), uri=f"/made/{n // 10_000:04d}/{n:08d}.jpg")
            else:
                yield Item(id=str(n), text=f"caption {n}")

    def location(self, position: int) -> str:
        return f"item {position}"


class Writer:
    """A new planned dataset, whose shards are committed as their vectors arrive."""

    def __init__(self, folder: Path, tower: Tower, count: int) -> None:
        self._card = fake_card(tower, dim=DIM)
        self._dataset = Dataset.create(
            str(folder), self._card, kind="planned", embedding_dtype="float16"
        )
        job = plan_items(self._dataset, Numbered(tower, count), _SHARD_ROWS)
        if job is None:
            raise SystemExit(f"{folder} has its vectors already: choose another folder")
        self._plan = PlanReader(self._dataset)
        self._shards = shards(job)
        self._next = next(self._shards, None)
        self._waiting: list[Vectors] = []

    def write(self, vectors: Vectors) -> None:
        """Add vectors (n, D) in the order of the items, and commit the shards that are full."""
        waiting = np.concatenate([*self._waiting, vectors])
        while self._next is not None:
            items = self._plan.read(self._next)
            if len(items) > len(waiting):
                break
            self._commit(self._next.name, items, waiting[: len(items)])
            waiting = waiting[len(items) :]
            self._next = next(self._shards, None)
        self._waiting = [waiting]

    def close(self) -> None:
        self._plan.close()

    def _commit(self, name: str, items: list[Item], vectors: Vectors) -> None:
        sizes = [_SIZE] * len(items) if self._card.tower == "img" else None
        embedded = Embedded(items=items, vectors=vectors, sizes=sizes, failures=[])
        commit(self._dataset, name, embedded, card=self._card, worker="bench")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Vectors of pictures and captions; `described` has the row of each caption's picture."""

    images: Vectors
    texts: Vectors
    described: NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000, help="pictures")
    parser.add_argument("--texts", type=int, default=100_000, help="captions")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    make(arguments.out, rows=arguments.rows, texts=arguments.texts, seed=arguments.seed)


def make(out: Path, *, rows: int, texts: int, seed: int) -> None:
    """Write the two datasets and the table of which caption describes which picture."""
    out.mkdir(parents=True, exist_ok=True)
    with (
        closing(Writer(out / "images", "img", rows)) as images,
        closing(Writer(out / "texts", "txt", texts)) as captions,
        (out / "test_texts.jsonl").open("w", encoding="utf-8") as gold,
    ):
        written = 0
        for batch in batches(rows=rows, texts=texts, seed=seed):
            images.write(batch.images)
            captions.write(batch.texts)
            written += write_gold(gold, batch.described, first=written)


def batches(*, rows: int, texts: int, seed: int) -> Iterator[Batch]:
    """Yield all vectors; a batch depends on the seed and its place alone."""
    world = World(seed)
    for start in range(0, rows, _BATCH_ROWS):
        random = np.random.default_rng([seed, 1, start])
        end = min(start + _BATCH_ROWS, rows)
        contents = world.contents(random, end - start)
        images = world.images(random, contents)
        copies, copied = choose_copies(random, len(images))
        images[copies] = near_copies(random, images[copied])
        # A caption describes a picture that is no copy: a copy's content is not `contents`.
        originals = np.setdiff1d(np.arange(len(images)), copies)
        count = texts * end // rows - texts * start // rows
        described = random.choice(originals, count)
        of_texts = world.texts(random, contents[described])
        yield Batch(images=images, texts=of_texts, described=start + described)


def choose_copies(
    random: np.random.Generator, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows that become copies, and the row that each copies; an original may have many."""
    order = random.permutation(count)
    copies, others = np.split(order, [int(count * _COPIES)])
    return copies, random.choice(others, len(copies))


def held_out(*, images: int, texts: int, seed: int) -> tuple[Vectors, Vectors]:
    """Return vectors of pictures and captions that `make` with the same seed does not write."""
    world, random = World(seed), np.random.default_rng([seed, 2])
    drawn = world.contents(random, images)
    return world.images(random, drawn), world.texts(random, world.contents(random, texts))


def write_gold(file: TextIO, described: NDArray[np.int64], *, first: int) -> int:
    """Write a line for each caption, numbered from `first`; return the number of lines."""
    for number, row in enumerate(described.tolist(), start=first):
        line = {"text_id": number, "text": f"caption {number}", "image_ids": [row]}
        file.write(json.dumps(line) + "\n")
    return len(described)


if __name__ == "__main__":
    main()
