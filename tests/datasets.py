"""Cards, datasets, items and their vectors, and a file system that crashes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.error_codes import EMPTY_FILE
from clipfleet.items import Item
from clipfleet.model_card import ModelCard, TensorSpec
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.filesystem.base import Filesystem
from clipfleet.storage.format.dataset import Dataset, part_names
from clipfleet.storage.format.dataset_info import DatasetInfo, EmbeddingDtype, Kind
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.storage.format.stage_seconds import StageSeconds
from clipfleet.workers.engines.fake import fake_card
from tests.memory_filesystem import MemoryFilesystem

DIM = 8


def make_card(tower: Tower = "txt", *, dim: int = DIM, checkpoint: str = "c") -> ModelCard:
    shape = (None, 52) if tower == "txt" else (None, 3, 224, 224)
    return ModelCard(
        architecture="tiny",
        tower=tower,
        runtime="fake",
        precision="fp32",
        engine="tiny.onnx",
        engine_sha256="e" * 64,
        input=TensorSpec(name="input", shape=shape, dtype="float32"),
        output=TensorSpec(name="output", shape=(None, dim), dtype="float32"),
        logit_scale=4.6052,
        checkpoint_sha256=checkpoint * 64,
        runtime_version="1",
    )


def memory_dataset(
    tower: Tower = "txt",
    *,
    kind: Kind | None = "planned",
    dtype: EmbeddingDtype = "float16",
    fs: Filesystem | None = None,
) -> Dataset:
    """Return a dataset in memory, without its dataset.json."""
    card = make_card(tower)
    info = DatasetInfo(
        tower=tower,
        model=card.identity,
        card=card,
        dim=card.dim,
        embedding_dtype=dtype,
        created_at="2026-11-22T00:00:00.000+00:00",
        kind=kind,
    )
    return Dataset(root="/memory", fs=fs or MemoryFilesystem(), info=info)


def fake_dataset(folder: Path, *, kind: Kind = "planned") -> Dataset:
    """Make a dataset of texts in a folder of the disk."""
    card = fake_card("txt", dim=DIM)
    return Dataset.create(str(folder / "dataset"), card, kind=kind, embedding_dtype="float16")


def files_of(dataset: Dataset) -> dict[str, bytes]:
    assert isinstance(dataset.fs, MemoryFilesystem)
    return dataset.fs.files


def texts(*ids: str) -> list[Item]:
    return [Item(id=id_, text=f"text of {id_}") for id_ in ids]


def numbered_texts(count: int) -> list[Item]:
    return texts(*(f"t{n}" for n in range(count)))


def images(*ids: str) -> list[Item]:
    return [Item(id=id_, uri=f"/pictures/{id_}") for id_ in ids]


def embedded(items: Sequence[Item], *, failing: Collection[str] = (), seed: int = 0) -> Embedded:
    """Return random unit vectors for items, and failures for those whose ids are in `failing`."""
    good = [item for item in items if item.id not in failing]
    vectors = np.random.default_rng(seed).standard_normal((len(good), DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    are_images = any(item.uri is not None for item in items)
    return Embedded(
        seconds=StageSeconds(read=0.5, decode=1.5, wait=0.25, engine=0.75),
        items=good,
        vectors=vectors,
        sizes=[(640, 480)] * len(good) if are_images else None,
        failures=[
            Failure(item=item, error=EMPTY_FILE, message="it has 0 bytes")
            for item in items
            if item.id in failing
        ],
    )


def dataset_of(
    root: Path | str, vectors: NDArray[np.float32], *, tower: Tower = "img", part_rows: int = 1000
) -> Dataset:
    """Make a dataset whose items have vectors (n, D) with norms of 1; see `add_rows`."""
    card = make_card(tower, dim=vectors.shape[1])
    dataset = Dataset.create(str(root), card, kind="planned", embedding_dtype="float16")
    add_rows(dataset, vectors, part_rows=part_rows)
    return dataset


def add_rows(dataset: Dataset, vectors: NDArray[np.float32], *, part_rows: int = 1000) -> None:
    """Commit vectors (n, D) to a dataset, `part_rows` a part, without a plan."""
    first_part = len(part_names(dataset.fs))
    for number, start in enumerate(range(0, len(vectors), part_rows), first_part):
        part = vectors[start : start + part_rows]
        names = [f"i{number}-{n}" for n in range(len(part))]
        items = images(*names) if dataset.info.tower == "img" else texts(*names)
        sizes = [(640, 480)] * len(items) if dataset.info.tower == "img" else None
        rows = Embedded(items=items, vectors=part, sizes=sizes, failures=[])
        commit(dataset, f"00001-{number:07d}", rows, card=dataset.info.card, worker="w")


def embedded_texts(count: int, failures: int = 0) -> Embedded:
    """Return the results of numbered texts; the last `failures` of them failed."""
    items = numbered_texts(count)
    return embedded(items, failing={item.id for item in items[count - failures :]})


class Crash(BaseException):
    """The kill of a process; no `except Exception` catches it."""


class WatchedFilesystem:
    """Calls `before` before every operation; for crashes and for interleavings."""

    def __init__(self, inner: Filesystem, before: Callable[[], None]) -> None:
        self._inner = inner
        self._before = before

    def read(self, path: str) -> bytes:
        self._before()
        return self._inner.read(path)

    def open(self, path: str) -> BinaryIO:
        self._before()
        return self._inner.open(path)

    def create(self, path: str, data: bytes | memoryview) -> bool:
        self._before()
        return self._inner.create(path, data)

    def replace(self, path: str, data: bytes | memoryview) -> None:
        self._before()
        self._inner.replace(path, data)

    def list(self, folder: str) -> list[str]:
        self._before()
        return self._inner.list(folder)

    def exists(self, path: str) -> bool:
        self._before()
        return self._inner.exists(path)

    def delete(self, path: str) -> None:
        self._before()
        self._inner.delete(path)

    def tidy(self) -> None:
        self._before()
        self._inner.tidy()


def crashing_after(dataset: Dataset, operations: int) -> Dataset:
    """Return the dataset of a process that is killed after a number of operations."""
    left = operations

    def before() -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1

    return dataclasses.replace(dataset, fs=WatchedFilesystem(dataset.fs, before))
