"""Datasets and vectors for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipfleet.jobs import MISSING, Item
from storage.dataset import Dataset, Kind
from storage.parts import Embedded, Failure
from workers.engines.fake import fake_card

DIM = 16


def fake_dataset(folder: Path, *, kind: Kind = "planned") -> Dataset:
    """Make a dataset of texts."""
    return Dataset.create(
        str(folder / "dataset"), fake_card("txt", dim=DIM), kind=kind, embedding_dtype="float16"
    )


def items(count: int) -> list[Item]:
    return [Item(id=f"t{n}", text=f"words {n}") for n in range(count)]


def embedded(count: int, failures: int = 0) -> Embedded:
    """Return so many items, of which the last ones failed."""
    good, bad = items(count)[: count - failures], items(count)[count - failures :]
    vectors = np.zeros((len(good), DIM), np.float32)
    vectors[:, 0] = 1.0
    failed = [Failure(item=item, error=MISSING, message="gone") for item in bad]
    return Embedded(items=good, vectors=vectors, sizes=None, failures=failed)
