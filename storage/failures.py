"""Failures: the errors tables of a dataset, counted."""

from __future__ import annotations

from collections import Counter

from storage.dataset import ERRORS_FOLDER, Dataset
from storage.parquet_files import open_parquet, read_row_groups


def count_failures(dataset: Dataset) -> Counter[str]:
    """Return how many items ended in each class of error."""
    counts: Counter[str] = Counter()
    for name in dataset.fs.list(ERRORS_FOLDER):
        with dataset.fs.open(f"{ERRORS_FOLDER}/{name}") as file:
            for rows in read_row_groups(open_parquet(file), ["error"]):
                counts.update(rows["error"].to_pylist())
    return counts
