"""The dataset whose vectors are the queries, if the user names none."""

from __future__ import annotations

from pathlib import Path

from clipfleet.reader import Dataset
from clipfleet.retrieval.certificate.certificate import Target
from clipfleet.retrieval.certificate.recall import provable
from clipfleet.retrieval.certificate.sample import QUERIES
from clipfleet.retrieval.index.card import IndexCard
from clipfleet.settings import Settings
from clipfleet.storage.filesystem.locations import in_object_store
from clipfleet.storage.format.dataset import INFO_PATH


def queries_at_hand(card: IndexCard, target: Target, *, settings: Settings) -> Dataset | None:
    """Return the largest dataset beside an index's dataset that has queries of the other tower.

    It is of the same checkpoint, and has enough vectors to prove the target. An object store is not
    searched.

    Raises:
        DatasetError: A dataset beside it is damaged.
    """
    if in_object_store(card.dataset):
        return None
    found = [
        Dataset(path.parent, settings=settings)
        for path in sorted(Path(card.dataset).parent.glob(f"*/{INFO_PATH}"))
    ]
    enough = [
        dataset
        for dataset in found
        if dataset.model.checkpoint_sha256 == card.model.checkpoint_sha256
        and dataset.model.tower != card.model.tower
        and dataset.model.dim == card.dim
        and (card.kind == "exact" or _can_prove(dataset, target))
    ]
    return max(enough, key=len, default=None)


def _can_prove(dataset: Dataset, target: Target) -> bool:
    return len(dataset) > 0 and provable(min(len(dataset), QUERIES)) >= target.min_recall
