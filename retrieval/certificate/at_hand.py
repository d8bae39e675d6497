"""The dataset whose vectors are the queries, if the user names none."""

from __future__ import annotations

import logging
from pathlib import Path

from clipfleet.errors import DatasetError
from clipfleet.model_card import ModelCard
from clipfleet.reader import Dataset
from clipfleet.retrieval.certificate.certificate import Target
from clipfleet.retrieval.certificate.recall import provable
from clipfleet.retrieval.certificate.sample import QUERIES
from clipfleet.settings import Settings
from clipfleet.storage.filesystem.locations import in_object_store
from clipfleet.storage.format.dataset_info import INFO_PATH

log = logging.getLogger(__name__)


def queries_at_hand(
    root: str, model: ModelCard, target: Target | None, *, settings: Settings
) -> Dataset | None:
    """Return the largest dataset beside a dataset of `model` that has queries of the other tower.

    It is of the same checkpoint, and has enough vectors to prove the target, if there is one. A
    damaged dataset is passed over, with a warning. An object store is not searched.
    """
    if in_object_store(root):
        return None
    folders = [path.parent for path in Path(root).parent.glob(f"*/{INFO_PATH}")]
    largest, most = None, 0
    for folder in sorted(folders):
        try:
            dataset = Dataset(folder, settings=settings)
            vectors = len(dataset) if _is_of_the_other_tower(dataset.model, model) else 0
        except DatasetError as error:
            log.warning("the certificate takes no queries from a damaged dataset: %s", error)
            continue
        if vectors > most and (target is None or _can_prove(vectors, target)):
            largest, most = dataset, vectors
    return largest


def _is_of_the_other_tower(queries: ModelCard, model: ModelCard) -> bool:
    return (
        queries.checkpoint_sha256 == model.checkpoint_sha256
        and queries.tower != model.tower
        and queries.dim == model.dim
    )


def _can_prove(vectors: int, target: Target) -> bool:
    return provable(min(vectors, QUERIES)) >= target.min_recall
