"""Make two datasets of one model from a seed: pictures and captions, without any engine.

    python -m bench.index.vectors OUT --rows 1000000 --texts 100000 --seed 7

`OUT/images` and `OUT/texts` are whole datasets, which `clipfleet verify` accepts; the pictures
themselves do not exist. `OUT/test_texts.jsonl` says which picture each caption describes, in the
form of Chinese-CLIP's data. About 3 % of the pictures are near-copies of others. Equal arguments
give equal vectors, in any number of processes (`--jobs`). The memory of each process holds 16,384
rows at a time, beside 200 MB of the world.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from bench.index.world import DIM, Vectors, World, near_copies
from clipfleet.architectures import Tower
from clipfleet.items import Item
from clipfleet.retrieval.threads import limited_threads
from clipfleet.settings import cores
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.reader import PlanReader, jobs, shards
from clipfleet.storage.sources.base import Source
from clipfleet.workers.engines.fake import fake_card

_BATCH_SHARDS = 4
_COPIES = 0.03  # share of near-copies
_SIZE = (640, 480)  # of each picture, in pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is made: pictures, captions, and the world that they are of; equal for equal recipes."""

    rows: int  # pictures
    texts: int  # captions
    seed: int
    clusters: int = 2000
    rank: int = 48
    shard_rows: int = 4096

    @property
    def batch_rows(self) -> int:
        return _BATCH_SHARDS * self.shard_rows

    @property
    def starts(self) -> range:
        """The first row of each batch."""
        return range(0, self.rows, self.batch_rows)

    def world(self) -> World:
        return World(self.seed, clusters=self.clusters, rank=self.rank)


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


def plan(folder: Path, tower: Tower, recipe: Recipe) -> None:
    """Make a dataset, and plan its pictures or captions."""
    card = fake_card(tower, dim=DIM)
    dataset = Dataset.create(str(folder), card, kind="planned", embedding_dtype="float16")
    count = recipe.rows if tower == "img" else recipe.texts
    if plan_items(dataset, Numbered(tower, count), recipe.shard_rows) is None:
        raise SystemExit(f"{folder} has its vectors already: choose another folder")


class Writer:
    """Commits the shards of a planned dataset, from the shard `first`, as their vectors arrive."""

    def __init__(self, folder: Path, tower: Tower, *, first: int = 0) -> None:
        self._card = fake_card(tower, dim=DIM)
        self._dataset = Dataset.open(str(folder))
        [job] = jobs(self._dataset)
        self._plan = PlanReader(self._dataset)
        self._shards = islice(shards(job), first, None)
        self._next = next(self._shards, None)
        self._waiting: Vectors = np.empty((0, DIM), np.float32)

    def write(self, vectors: Vectors) -> None:
        """Add vectors (n, D) in the order of the items, and commit the shards that are full."""
        waiting = np.concatenate([self._waiting, vectors])
        while self._next is not None and len(waiting):
            items = self._plan.read(self._next)
            if len(items) > len(waiting):
                break
            self._commit(self._next.name, items, waiting[: len(items)])
            waiting = waiting[len(items) :]
            self._next = next(self._shards, None)
        self._waiting = waiting

    def close(self) -> None:
        self._plan.close()

    def _commit(self, name: str, items: list[Item], vectors: Vectors) -> None:
        sizes = [_SIZE] * len(items) if self._card.tower == "img" else None
        embedded = Embedded(items=items, vectors=vectors, sizes=sizes, failures=[])
        commit(self._dataset, name, embedded, card=self._card, worker="bench")


@dataclass(frozen=True, kw_only=True, slots=True)
class Captions:
    """Vectors of captions; `described` has the row of each one's picture."""

    vectors: Vectors
    described: NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000, help="pictures")
    parser.add_argument("--texts", type=int, default=100_000, help="captions")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=cores(), help="processes; default: the cores")
    arguments = parser.parse_args()
    recipe = Recipe(rows=arguments.rows, texts=arguments.texts, seed=arguments.seed)
    make(arguments.out, recipe, processes=arguments.jobs)


def make(out: Path, recipe: Recipe, *, processes: int | None = None) -> None:
    """Write the two datasets and the table of which caption describes which picture.

    `processes`, by default one for each core, make the batches and commit the pictures.
    """
    out.mkdir(parents=True, exist_ok=True)
    plan(out / "images", "img", recipe)
    plan(out / "texts", "txt", recipe)
    with (
        closing(Writer(out / "texts", "txt")) as captions,
        (out / "test_texts.jsonl").open("w", encoding="utf-8") as gold,
    ):
        written = 0
        for made in committed(out / "images", recipe, processes or cores()):
            captions.write(made.vectors)
            written += write_gold(gold, made.described, first=written)


def committed(images: Path, recipe: Recipe, processes: int) -> Iterator[Captions]:
    """Commit the pictures in so many processes, and yield their captions in order."""
    if processes == 1:
        yield from map(Maker(images, recipe), recipe.starts)
        return
    ahead: deque[Future[Captions]] = deque()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn) as pool:
        for start in recipe.starts:
            ahead.append(pool.submit(_make, images, recipe, start))
            if len(ahead) >= 2 * processes:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class Maker:
    """Makes batches, and commits their pictures to a planned dataset."""

    def __init__(self, images: Path, recipe: Recipe) -> None:
        self._images = images
        self._recipe = recipe
        self._world = recipe.world()

    def __call__(self, start: int) -> Captions:
        with limited_threads(1):
            pictures, captions = batch(self._world, self._recipe, start)
        first = start // self._recipe.shard_rows
        with closing(Writer(self._images, "img", first=first)) as writer:
            writer.write(pictures)
        return captions


@cache
def _maker(images: Path, recipe: Recipe) -> Maker:
    """Return the one maker of this process."""
    return Maker(images, recipe)


def _make(images: Path, recipe: Recipe, start: int) -> Captions:
    return _maker(images, recipe)(start)


def all_pictures(recipe: Recipe) -> Iterator[Vectors]:
    """Yield the pictures' vectors (n, D), batch after batch, without a dataset."""
    world = recipe.world()
    for start in recipe.starts:
        yield batch(world, recipe, start)[0]


def batch(world: World, recipe: Recipe, start: int) -> tuple[Vectors, Captions]:
    """Return pictures (n, D) from the row `start`, and captions of some; nothing else decides."""
    random = np.random.default_rng([recipe.seed, 1, start])
    end = min(start + recipe.batch_rows, recipe.rows)
    contents = world.contents(random, end - start)
    images = world.images(random, contents)
    copies, copied = choose_copies(random, len(images))
    images[copies] = near_copies(random, images[copied])
    # A caption describes a picture that is no copy: a copy's content is not `contents`.
    originals = np.setdiff1d(np.arange(len(images)), copies)
    count = recipe.texts * end // recipe.rows - recipe.texts * start // recipe.rows
    described = random.choice(originals, count)
    of_texts = world.texts(random, contents[described])
    return images, Captions(vectors=of_texts, described=start + described)


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
