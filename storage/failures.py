"""Failures: the errors tables of a dataset, counted."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq

from storage.dataset import ERRORS_FOLDER, Dataset


def count_failures(dataset: Dataset) -> Counter[str]:
    """Return how many items ended in each class of error."""
    counts: Counter[str] = Counter()
    for name in dataset.fs.list(ERRORS_FOLDER):
        with dataset.fs.open(f"{ERRORS_FOLDER}/{name}") as file:
            counts.update(pq.read_table(file, columns=["error"])["error"].to_pylist())
    return counts
