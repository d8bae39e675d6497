"""Measure what each stage of a shard of texts costs the process that embeds it.

    python bench/text_stages.py --texts 100000 --rounds 3

Microseconds of CPU time a text, of all threads of one process, and of its wall time. The engine
costs nothing: its features are ready. The captions are Chinese and English, all different.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import part_of
from clipfleet.storage.plan.jobs import shards
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import Source
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.base import Array
from clipfleet.workers.engines.fake import FakeEngine, fake_card
from clipfleet.workers.text.tokenizer import Tokenizer

SEED = 1
CHUNK = 256  # items of one call of a TensorRT engine


class Captions(Source):
    """So many captions: every second one is Chinese, the others are English."""

    description = "captions"
    folder = None

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[Item]:
        chance = random.Random(SEED)
        vocabulary = (
            (resources.files("clipfleet.workers.text") / "vocab.txt").read_text("utf-8").split()
        )
        characters = [chr(0x4E00 + n) for n in range(3000)]
        words = [word for word in vocabulary if len(word) > 1 and word.isascii() and word.isalpha()]
        shares = [1 / (rank + 1) for rank in range(len(words))]
        for n in range(self._count):
            if n % 2:
                text = "".join(chance.choices(characters, k=chance.randint(8, 25)))
            else:
                text = " ".join(chance.choices(words, shares, k=chance.randint(6, 14)))
            yield Item(id=f"caption-{n:07d}", text=f"{text}。")

    def location(self, position: int) -> str:
        return f"caption {position}"


class FreeEngine(FakeEngine):
    """An engine whose features are ready."""

    max_batch = CHUNK

    def __init__(self, dim: int) -> None:
        super().__init__(fake_card("txt", dim=dim), max_batch=CHUNK)
        self._features = np.random.default_rng(SEED).standard_normal((1 << 13, dim), np.float32)

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        return self._features[: len(inputs)]


class Stopwatch:
    """CPU and wall time by stage, in seconds."""

    def __init__(self) -> None:
        self.spent_s: dict[str, list[float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        yield
        spent = self.spent_s.setdefault(name, [0.0, 0.0])
        spent[0] += time.process_time() - cpu_s
        spent[1] += time.perf_counter() - wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-size", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=512)
    args = parser.parse_args()
    rounds = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory(prefix="clipfleet-bench-") as folder:
            rounds.append(measure(Path(folder), args.texts, args.shard_size, args.dim))
    print(f"{args.texts:,} texts, the least of {args.rounds} rounds\n")
    print("| stage | CPU, µs a text | wall, µs a text |\n|---|---:|---:|")
    for stage in rounds[0]:
        cpu, wall = (
            min(each[stage][kind] for each in rounds) * 1e6 / args.texts for kind in (0, 1)
        )
        print(f"| {stage} | {cpu:.1f} | {wall:.1f} |")


def measure(folder: Path, count: int, shard_size: int, dim: int) -> dict[str, list[float]]:
    """Embed captions shard by shard; return the seconds of each stage, CPU and wall."""
    watch = Stopwatch()
    engine = FreeEngine(dim)
    card, root = engine.card, str(folder / "out")
    dataset = Dataset.create(root, card, kind="planned", embedding_dtype="float16")
    job = plan_items(dataset, Captions(count), shard_size)
    assert job is not None
    tokenizer = Tokenizer()
    with Embedder(engine, Settings()) as embedder:
        for shard in shards(job):
            with watch.stage("whole shard"):
                with watch.stage("read the plan"):
                    work = read_shard_work(dataset, shard)
                with watch.stage("tokenise, run the engine, normalise"):
                    embedded = work.finish(embedder.embed(work.items))
                with watch.stage("commit"):
                    commit(dataset, shard.name, embedded, card=card, worker="bench")
            with watch.stage("tokenise alone"):
                tokenizer.encode_counted([item.text or "" for item in work.items], 52)
            with watch.stage("make the part alone"):
                part_of(embedded, dataset.info, card, shard.name)
    return watch.spent_s


if __name__ == "__main__":
    main()
