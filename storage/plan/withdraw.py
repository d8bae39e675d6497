"""A dataset whose first source was refused is withdrawn: the next try may be of another model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clipfleet.errors import UsageError
from clipfleet.storage.format.dataset import PARTS_FOLDER, PLAN_FOLDER, Dataset
from clipfleet.storage.format.dataset_info import INFO_PATH


@contextmanager
def withdrawn_if_refused(dataset: Dataset) -> Iterator[None]:
    """Remove `dataset.json` if the block raises UsageError, and nothing was ever planned."""
    try:
        yield
    except UsageError:
        if not dataset.fs.list(PLAN_FOLDER) and not dataset.fs.list(PARTS_FOLDER):
            dataset.fs.delete(INFO_PATH)
        raise
