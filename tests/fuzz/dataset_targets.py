"""The files of a dataset: each in turn is what somebody else wrote there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from clipfleet.errors import ClipfleetError
from clipfleet.jobs import MISSING, Item
from storage.dataset import Dataset
from storage.failures import error_classes
from storage.jobs import jobs
from storage.known_ids import KnownIds
from storage.manifest import commit, complete, missing_shards, unfinished
from storage.parts import Embedded, Failure
from storage.plan import plan_items, plan_retry
from storage.proof import prove
from storage.queued import Queued, read_queued, write_queued
from storage.retries import read_run
from storage.sources import ListSource
from tests.fuzz.tables import table_bytes
from tests.fuzz.target import Make, Target
from workers.engines.fake import fake_card

_DIM = 16
_DONE = "00001-0000000"


def _make_dataset(root: Path) -> None:
    """Plan five texts in two shards, one of which is done, and record what was queued."""
    card = fake_card("txt", dim=_DIM)
    dataset = Dataset.create(str(root), card, embedding_dtype="float16")
    items = [Item(id=f"t{n}", text=f"words {n}") for n in range(5)]
    plan_items(dataset, ListSource(items), 3)
    vectors = np.zeros((2, _DIM), np.float32)
    vectors[:, 0] = 1.0
    failed = Failure(item=items[2], error=MISSING, message="gone")
    done = Embedded(items=items[:2], vectors=vectors, sizes=None, failures=[failed])
    commit(dataset, _DONE, done, card=card, worker="w")
    write_queued(dataset, Queued(queue="clipfleet.txt", dataset=dataset.root, last_job="00001"))


def _use(root: Path) -> None:
    """Do what commands and workers do with a dataset, each by itself."""
    dataset = Dataset.open(str(root))
    for use in (_prove, _read_queue, _read_plan, _read_parts, _read_errors, _retry, _complete):
        with suppress(ClipfleetError):
            use(dataset)


def _prove(dataset: Dataset) -> None:
    prove(dataset.root)


def _read_queue(dataset: Dataset) -> None:
    queued = read_queued(dataset)
    if queued is not None:
        for shard in missing_shards(dataset):
            queued.waits(shard)


def _read_plan(dataset: Dataset) -> None:
    jobs(dataset)
    for shard in missing_shards(dataset):
        read_run(dataset, shard)


def _read_parts(dataset: Dataset) -> None:
    known = KnownIds(dataset)
    try:
        known.refresh()
    finally:
        known.close()


def _read_errors(dataset: Dataset) -> None:
    error_classes(dataset)


def _retry(dataset: Dataset) -> None:
    plan_retry(dataset, (), 3)


def _complete(dataset: Dataset) -> None:
    for name in unfinished(dataset):
        complete(dataset, name)


def _target(find: Callable[[Path], Path], folder: Path) -> Target:
    """Return a target that feeds one file of a dataset, which is whole again after each input."""
    whole, root = folder / "whole", folder / "dataset"
    _make_dataset(root)
    root.rename(whole)  # made under the name that its files have
    before = {path.relative_to(whole): path.read_bytes() for path in _files(whole)}
    shutil.copytree(whole, root)
    fed = find(root)

    def run(data: bytes) -> None:
        fed.write_bytes(data)
        try:
            _use(root)
        finally:
            _restore(root, before)

    seed = before[fed.relative_to(root)]
    return Target(run=run, seeds=(seed, *(_leading_out(seed) if fed.suffix == ".json" else ())))


def _leading_out(record: bytes) -> Iterator[bytes]:
    """Yield a JSON object with, in turn, each of its strings as a way out of the folder."""
    fields = json.loads(record)
    for name in [name for name, value in fields.items() if isinstance(value, str)]:
        for place in ("../../../../../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "x" * 5000):
            yield json.dumps({**fields, name: place}).encode()


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def _restore(root: Path, before: dict[Path, bytes]) -> None:
    for path in _files(root):
        if path.relative_to(root) not in before:
            path.unlink()
    for name, data in before.items():
        if not (root / name).is_file() or (root / name).read_bytes() != data:
            (root / name).write_bytes(data)


def _only(pattern: str, root: Path) -> Path:
    (found,) = root.glob(pattern)
    return found


_FED = {
    "dataset": "dataset.json",
    "queued": "queued.json",
    "job": "plan/00001.json",
    "plan": "plan/00001-*.parquet",
    "part": f"parts/{_DONE}.parquet",
    "record": f"manifest/{_DONE}.json",
    "errors": f"errors/{_DONE}.parquet",
}

_TABLES = ("plan", "errors")  # which are whole Parquet files of any columns, too


def _table_target(find: Callable[[Path], Path], folder: Path) -> Target:
    fed = _target(find, folder)
    seeds = tuple(bytes([n, 0, 5, 5, 0, *[n] * 8, 0, 0]) for n in range(8))
    return Target(run=lambda data: fed.run(table_bytes(data)), seeds=seeds)


DATASET_TARGETS: dict[str, Make] = {
    **{name: partial(_target, partial(_only, pattern)) for name, pattern in _FED.items()},
    **{f"{name}_table": partial(_table_target, partial(_only, _FED[name])) for name in _TABLES},
}
