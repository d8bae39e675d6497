"""Whole datasets in folders, which the tests damage; the same ids always get the same vectors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

import numpy as np

from clipfleet.error_codes import EMPTY_FILE
from clipfleet.items import Item
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.dataset_info import Kind
from clipfleet.storage.format.enqueue_state import Queued, write_queued
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.storage.plan.jobs import jobs
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from tests.datasets import DIM, images, make_card, texts

FAILING = ("t01", "t06", "t09", "i1", "s05")
FAILING_AGAIN = ("t06",)


def planned(root: Path | str) -> None:
    """Two jobs and a retry: shards of 4, 4, 3 and 2 texts; t01, t06 and t09 fail, t06 again.

    The retry has the shards 00003-0000000 (t01, t06) and 00003-0000001 (t09).
    """
    dataset = _create(root, "planned")
    for ids in ([f"t{n:02d}" for n in range(11)], ["u0", "u1"]):
        plan_items(dataset, ListSource(texts(*ids)), 4)
        embed_missing(dataset)
    plan_retry(dataset, (), 2)
    embed_missing(dataset)
    _write_queued(dataset)


def pictures(root: Path) -> None:
    """One job with shards of 3 and 2 images; i1 fails."""
    card = make_card("img")
    dataset = Dataset.create(str(root), card, kind="planned", embedding_dtype="float16")
    plan_items(dataset, ListSource(images(*(f"i{n}" for n in range(5)))), 3)
    embed_missing(dataset)
    _write_queued(dataset)


def stream(root: Path) -> None:
    """Four parts of three single texts each; s05 fails, in part 2."""
    dataset = _create(root, "stream")
    for start in range(0, 12, 3):
        send(dataset, texts(*(f"s{n:02d}" for n in range(start, start + 3))))


def _create(root: Path | str, kind: Kind) -> Dataset:
    return Dataset.create(str(root), make_card(), kind=kind, embedding_dtype="float16")


MAKERS: dict[str, Callable[[Path], None]] = {
    "planned": planned,
    "pictures": pictures,
    "stream": stream,
}


def embed_missing(dataset: Dataset) -> None:
    """Embed the shards that a dataset misses, as workers do."""
    for shard in list(missing_shards(dataset)):
        work = read_shard_work(dataset, shard)
        failing = FAILING_AGAIN if work.earlier else FAILING
        rows = work.finish(_embedded(work.items, failing))
        commit(dataset, shard.name, rows, card=dataset.info.card, worker="worker-1")


def send(dataset: Dataset, items: Sequence[Item]) -> None:
    """Embed single items, as a worker does that gets them in one batch."""
    with closing(KnownIds(dataset)) as known:
        rows = _embedded(items, FAILING)
        commit_single_items(dataset, known, rows, card=dataset.info.card, worker="worker-1")


def _write_queued(dataset: Dataset) -> None:
    last = jobs(dataset)[-1].id
    write_queued(dataset, Queued(queue="clipfleet.txt", dataset=dataset.root, last_job=last))


def _embedded(items: Sequence[Item], failing: Collection[str]) -> Embedded:
    good = [item for item in items if item.id not in failing]
    return Embedded(
        items=good,
        vectors=np.array([_vector(item.id) for item in good], np.float32).reshape(-1, DIM),
        sizes=[(640, 480)] * len(good) if any(item.uri for item in items) else None,
        failures=[
            Failure(item=item, error=EMPTY_FILE, message="it has 0 bytes")
            for item in items
            if item.id in failing
        ],
    )


def _vector(id_: str) -> np.ndarray:
    seed = int.from_bytes(blake2b(id_.encode(), digest_size=4).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(DIM)
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit
