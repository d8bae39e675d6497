"""Measure what copies of equal bytes cost: the hashes of a dataset, and vectors from its parts.

    python bench/copies.py --rows 1000000 --folder /large/disk

The dataset has random unit vectors and made hashes, and stays in the folder for the next call. CPU
time is that of the process with all its threads. (Decision 49 has the figures.)
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np

from clipfleet.items import Fingerprint, Item
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import part_of, part_path
from clipfleet.storage.format.results import Embedded
from clipfleet.workers.copies.stored import StoredVectors
from clipfleet.workers.engines.fake import fake_card

SHARD_SIZE = 4096
COPIES = 900  # of a shard


def main() -> None:
    arguments = parse_arguments()
    dataset = make(arguments.folder, rows=arguments.rows, dim=arguments.dim)
    vectors = StoredVectors(dataset)
    before_mb, clock = resident_mb(), Clock()
    vectors.look()
    print(f"the first look at {arguments.rows:,} rows: {clock.read()}")
    print(f"memory after it: {resident_mb() - before_mb:+.0f} MB")
    random = np.random.default_rng(1)
    far = {hash_of(n) for n in random.choice(arguments.rows, COPIES, replace=False).tolist()}
    near = {hash_of(n) for n in range(COPIES)}
    clock = Clock()
    known = sum(one in vectors for one in far)
    print(f"whether a content is known: {clock.read(known)} each")
    for where, hashes in (("from all over the dataset", far), ("that lie together", near)):
        print(f"{COPIES} copies {where}: {timed_copies(vectors, hashes)} each")


def timed_copies(vectors: StoredVectors, hashes: Collection[str]) -> str:
    clock = Clock()
    found = vectors.take(hashes)
    took = clock.read(len(found))
    if len(found) < len(hashes):
        raise SystemExit(f"{len(hashes) - len(found)} vectors are missing")
    return took


class Clock:
    """CPU time and wall time since its making."""

    def __init__(self) -> None:
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()

    def read(self, count: int = 1) -> str:
        """Return both, divided by a count, in milliseconds."""
        cpu_s, wall_s = time.process_time() - self._cpu_s, time.perf_counter() - self._wall_s
        return f"{1e3 * cpu_s / count:.3f} ms of CPU time, {1e3 * wall_s / count:.3f} ms in all"


def make(folder: Path, *, rows: int, dim: int) -> Dataset:
    """Return a dataset of so many rows in the folder; parts that are there are not made again."""
    card = fake_card("txt", dim=dim)
    dataset = Dataset.create(
        str(folder / f"copies-{rows}-{dim}"),
        card,
        kind="planned",
        embedding_dtype="float16",
        columns=("content_hash",),
    )
    vectors = np.random.default_rng(0).standard_normal((SHARD_SIZE, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for begin in range(0, rows, SHARD_SIZE):
        name = f"00001-{begin:09d}"
        if dataset.fs.exists(part_path(name)):
            continue
        numbers = range(begin, min(begin + SHARD_SIZE, rows))
        shard = Embedded(
            items=[Item(id=f"{n:09d}", text="x") for n in numbers],
            vectors=vectors[: len(numbers)],
            sizes=None,
            failures=[],
            fingerprints=[Fingerprint(sha256=hash_of(n)) for n in numbers],
        )
        data, _ = part_of(shard, dataset.info, card, name)
        dataset.fs.create(part_path(name), data)
    return dataset


def hash_of(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024 / 1e6


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--folder", type=Path, required=True, help="keeps the dataset")
    return parser.parse_args()


if __name__ == "__main__":
    main()
