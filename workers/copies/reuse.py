"""The vectors of another dataset, which the setting `reuse` names."""

from __future__ import annotations

from clipfleet.errors import DatasetMismatchError
from clipfleet.images import PictureRules
from clipfleet.model_card import ModelCard
from clipfleet.settings import Settings
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.dataset_info import DatasetInfo
from clipfleet.workers.copies.stored import StoredVectors


class ReusedVectors(StoredVectors):
    """The vectors of a dataset that others may copy from, if they fit."""

    def check(self, info: DatasetInfo) -> None:
        """Refuse vectors that are not fit for a dataset.

        Raises:
            DatasetMismatchError: The dataset has float32, and these are float16; or it has other
                picture rules.
        """
        self.dataset.check_rules(info.rules)
        own = self.dataset.info.embedding_dtype
        if (own, info.embedding_dtype) == ("float16", "float32"):
            raise DatasetMismatchError(
                f"{self.dataset.root} has float16 vectors, which a dataset of float32 cannot "
                "reuse: leave --reuse out (CLIPFLEET_REUSE)"
            )


def open_reused(settings: Settings, card: ModelCard) -> ReusedVectors | None:
    """Return the vectors of the dataset `settings.reuse` for a model; None if it is not set.

    Raises:
        DatasetError: There is no such dataset.
        DatasetMismatchError: Its vectors are of another model, decoder or picture rule, or have no
            content hash.
    """
    if settings.reuse is None:
        return None
    dataset = Dataset.open(settings.reuse, store_timeout_s=settings.store_timeout_s)
    dataset.check_model(card)
    if card.tower == "img":
        dataset.check_decode(settings.decode)
        dataset.check_rules(PictureRules.of(settings))
    if "content_hash" not in dataset.info.columns:
        raise DatasetMismatchError(
            f"dataset {dataset.root} has no content hashes, by which its vectors could be reused: "
            "leave --reuse out (CLIPFLEET_REUSE), or name one that was made with --content-hash"
        )
    return ReusedVectors(dataset)
