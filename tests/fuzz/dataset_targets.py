"""The files of a dataset; each in turn has foreign content."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from clipfleet.error_codes import MISSING, NOT_A_FILE
from clipfleet.errors import ClipfleetError
from clipfleet.items import Item
from clipfleet.storage.commit.commit import commit, complete
from clipfleet.storage.commit.manifest import Manifest, finish, missing_shards, unfinished
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.dataset import Dataset, part_names
from clipfleet.storage.format.discovery import find_datasets
from clipfleet.storage.format.enqueue_state import Queued, read_queued, write_queued
from clipfleet.storage.format.parquet import parquet_bytes
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.storage.plan.failures import error_classes
from clipfleet.storage.plan.jobs import jobs
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.refresh import refresh_items
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.submit.enqueue import name_in_messages
from clipfleet.tasks.submit.reconcile import fingerprint_of, is_ours
from clipfleet.workers.engines.fake import fake_card
from tests.fuzz.tables import table_bytes
from tests.fuzz.target import Make, Target

DIM = 16
QUEUE = "clipfleet.txt"
CARD = fake_card("txt", dim=DIM)


def make_dataset(root: Path) -> Dataset:
    """Make a dataset of texts with every kind of file: of planned, single and retried items.

    Earlier versions wrote all of these into one dataset.

    Of two planned shards one is done; two failures are retried, of which one fails again.
    """
    dataset = Dataset.create(str(root), CARD, kind="planned", embedding_dtype="float16")
    items = [Item(id=f"t{n}", text=f"words {n}") for n in range(5)]
    plan_items(dataset, ListSource(items), 4)
    first = next(missing_shards(dataset))
    failed = [_failure(items[1], MISSING), _failure(items[2], NOT_A_FILE)]
    commit(dataset, first.name, _embedded([items[0], items[3]], failed), card=CARD, worker="w")
    _commit_singly(dataset, "a")
    plan_retry(dataset, [MISSING], 1)
    for number, shard in enumerate(list(missing_shards(dataset))[-2:]):
        work = read_shard_work(dataset, shard)
        good, bad = (work.items, []) if number == 0 else ([], [_failure(work.items[0], MISSING)])
        done = work.finish(_embedded(good, bad))
        commit(dataset, shard.name, done, card=CARD, worker="w")
    last_job = jobs(dataset)[-1].id
    write_queued(dataset, Queued(queue=QUEUE, dataset=dataset.root, last_job=last_job))
    return dataset


def _commit_singly(dataset: Dataset, prefix: str) -> None:
    items = [Item(id=f"{prefix}{n}", text=f"words {n}") for n in range(3)]
    failed = [_failure(items[1], MISSING), _failure(items[2], NOT_A_FILE)]
    known = KnownIds(dataset)
    try:
        commit_single_items(dataset, known, _embedded(items[:1], failed), card=CARD, worker="w")
    finally:
        known.close()


def _embedded(items: list[Item], failures: list[Failure]) -> Embedded:
    vectors = np.zeros((len(items), DIM), np.float32)
    vectors[:, 0] = 1.0
    return Embedded(items=items, vectors=vectors, sizes=None, failures=failures)


def _failure(item: Item, error: str) -> Failure:
    return Failure(item=item, error=error, message="gone")


def _use(root: Path) -> None:
    """Run the operations of commands and workers on a dataset, each by itself."""
    dataset = Dataset.open(str(root))
    for use in _USES:
        with suppress(ClipfleetError):
            use(dataset)


def _prove(dataset: Dataset) -> None:
    verify_dataset(dataset.root)


def _status(dataset: Dataset) -> None:
    Manifest(dataset).refresh()
    jobs(dataset)


def _look_for_lost(dataset: Dataset) -> None:
    output = str(Path(dataset.root).parent)
    find_datasets(output)
    fingerprint_of(dataset.fs)
    queued = read_queued(dataset)
    if queued is not None and is_ours(queued, dataset.root, queue=QUEUE, output=output):
        for shard in missing_shards(dataset):
            queued.waits(shard)


def _resume(dataset: Dataset) -> None:
    name = name_in_messages(dataset)
    last = jobs(dataset)[-1].id
    write_queued(dataset, Queued(queue=QUEUE, dataset=name, last_job=last))


def _read_plan(dataset: Dataset) -> None:
    for shard in missing_shards(dataset):
        read_shard_work(dataset, shard)


def _read_errors(dataset: Dataset) -> None:
    error_classes(dataset)


def _complete(dataset: Dataset) -> None:
    for name in unfinished(dataset):
        complete(dataset, name)


def _complete_again(dataset: Dataset) -> None:
    """Finish every part, as if its worker had died before it wrote the record."""
    for name in sorted(part_names(dataset.fs)):
        with suppress(ClipfleetError):
            complete(dataset, name)


def _retry(dataset: Dataset) -> None:
    plan_retry(dataset, (), 3)


def _refresh(dataset: Dataset) -> None:
    """Plan newer content of a vector and of failures, and embed it."""
    items = [Item(id=f"t{n}", text="newer") for n in range(4)]
    refresh_items(dataset, ListSource(items), 2, on_conflict="replace")
    for shard in missing_shards(dataset):
        work = read_shard_work(dataset, shard)
        done = work.finish(_embedded(work.items, []))
        commit(dataset, shard.name, done, card=CARD, worker="w")
    finish(dataset)


def _arrive(dataset: Dataset) -> None:
    _commit_singly(dataset, "b")


_USES = (
    *(_prove, _status, _look_for_lost, _resume, _read_plan, _read_errors, _complete),
    *(_complete_again, _retry, _arrive, _refresh),
)


def _target(find: Callable[[Path], Path], folder: Path) -> Target:
    """Return a target that feeds one file of a dataset, which is whole again after each input."""
    whole, root = folder / "whole", folder / "dataset"
    make_dataset(root)
    root.rename(whole)  # made under the name that its files have
    before = contents(whole)
    shutil.copytree(whole, root)
    fed = find(root)

    def run(data: bytes) -> None:
        fed.write_bytes(data)
        try:
            _use(root)
        finally:
            restore(root, before)

    seed = before[fed.relative_to(root)]
    return Target(run=run, seeds=(seed, *(_leading_out(seed) if fed.suffix == ".json" else ())))


def _leading_out(record: bytes) -> Iterator[bytes]:
    """Yield a JSON object with, in turn, each of its strings as a way out of the folder."""
    fields = json.loads(record)
    for name in [name for name, value in fields.items() if isinstance(value, str)]:
        for place in ("../../../../../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "x" * 5000):
            yield json.dumps({**fields, name: place}).encode()


def contents(root: Path) -> dict[Path, bytes]:
    """Return the files below a folder."""
    return {path.relative_to(root): path.read_bytes() for path in _files(root)}


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def restore(root: Path, before: dict[Path, bytes]) -> None:
    """Restore a folder's files to the result of `contents`."""
    for path in _files(root):
        if path.relative_to(root) not in before:
            path.unlink()
    for name, data in before.items():
        if not (root / name).is_file() or (root / name).read_bytes() != data:
            (root / name).write_bytes(data)


def _first(pattern: str, root: Path) -> Path:
    return min(root.glob(pattern))


def _last(pattern: str, root: Path) -> Path:
    return max(root.glob(pattern))


def _of_retry(kind: str, root: Path) -> Path:
    """Return a file of the second of the retry's shards."""
    job = _last("plan/*-retry-*", root).name.partition("-")[0]
    return _last(f"{kind}/{job}-*", root)


# One file each of planned, of single and of retried items.
_FED: dict[str, Callable[[Path], Path]] = {
    "dataset": partial(_first, "dataset.json"),
    "queued": partial(_first, "queued.json"),
    "job": partial(_first, "plan/*.json"),
    "plan": partial(_first, "plan/*.parquet"),
    "part": partial(_first, "parts/0*.parquet"),
    "record": partial(_first, "manifest/0*.json"),
    "errors": partial(_first, "errors/0*.parquet"),
    "single_part": partial(_first, "parts/items-*.parquet"),
    "single_record": partial(_first, "manifest/items-*.json"),
    "retry_job": partial(_last, "plan/*.json"),
    "retry_plan": partial(_last, "plan/*-retry-*.parquet"),
    "retry_part": partial(_of_retry, "parts"),
    "retry_errors": partial(_of_retry, "errors"),
}

_TABLES = ("plan", "errors", "single_part", "retry_plan")  # whole files of any columns, too


def _table_target(find: Callable[[Path], Path], folder: Path) -> Target:
    fed = _target(find, folder)
    seeds = tuple(bytes([n, 0, 5, 5, 0, *[n] * 8, 0, 0]) for n in range(8))
    return Target(run=lambda data: fed.run(table_bytes(data)), seeds=seeds)


def _footer_target(find: Callable[[Path], Path], folder: Path) -> Target:
    """Return a target that feeds one field of a part's footer; the first byte says which."""
    fed = _target(find, folder)
    part = pq.ParquetFile(find(folder / "dataset"))
    table = part.read().replace_schema_metadata()
    footer = {key: value for key, value in part.metadata.metadata.items() if b"clipfleet" in key}
    keys = sorted(footer)

    def run(data: bytes) -> None:
        key = keys[data[0] % len(keys)] if data else b""
        # Arrow takes bytes as it takes strings.
        fed.run(bytes(parquet_bytes(table, {**footer, key: data[1:]})))  # type: ignore[dict-item]

    return Target(run=run, seeds=tuple(_footer_seeds(keys, footer)))


def _footer_seeds(keys: Sequence[bytes], footer: dict[bytes, bytes]) -> Iterator[bytes]:
    out = ("../../../../../etc/passwd", "../dataset", "a\0b", "x" * 5000)
    for number, key in enumerate(keys):
        yield bytes([number]) + footer[key]
        for place in out:
            yield bytes([number]) + place.encode()
            yield bytes([number]) + json.dumps([place]).encode()


DATASET_TARGETS: dict[str, Make] = {
    **{name: partial(_target, find) for name, find in _FED.items()},
    **{f"{name}_table": partial(_table_target, _FED[name]) for name in _TABLES},
    **{
        f"{name}_footer": partial(_footer_target, _FED[f"{name}_part"])
        for name in ("retry", "single")
    },
}
