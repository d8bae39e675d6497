"""Vectors of another dataset, by the SHA-256 of the bytes that they were made of."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipfleet.errors import DatasetMismatchError
from clipfleet.images import PictureRules
from clipfleet.model_card import ModelCard
from clipfleet.settings import Settings
from clipfleet.storage.format.dataset import Dataset, part_names
from clipfleet.storage.format.dataset_info import DatasetInfo
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_group,
)
from clipfleet.storage.format.parts import part_path, part_remedy

_MAX_GROUPS = 8  # row groups in memory
_PREFIX_DIGITS = 16  # of a SHA-256, that the index keeps: 8 bytes
_PLACE = np.dtype([("prefix", np.uint64), ("group", np.uint32), ("row", np.uint32)])


class ReusedVectors:
    """The vectors of a dataset with content hashes, as it is when the first one is looked for.

    Memory holds 16 bytes a vector, and a few row groups.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._groups: list[tuple[str, int]] = []  # a part's name, and the index of its row group
        self._places: NDArray[np.void] | None = None  # sorted by prefix
        self._recent: OrderedDict[int, tuple[list[str], NDArray[np.float32]] | None] = OrderedDict()

    def check(self, info: DatasetInfo) -> None:
        """Refuse vectors that are not fit for a dataset.

        Raises:
            DatasetMismatchError: The dataset has float32, and these are float16; or it has other
                picture rules.
        """
        self._dataset.check_rules(info.rules)
        own = self._dataset.info.embedding_dtype
        if (own, info.embedding_dtype) == ("float16", "float32"):
            raise DatasetMismatchError(
                f"{self._dataset.root} has float16 vectors, which a dataset of float32 cannot "
                "reuse: leave --reuse out (CLIPFLEET_REUSE)"
            )

    def get(self, sha256: str) -> NDArray[np.float32] | None:
        """Return the vector (D,) of these bytes; None if the dataset has none.

        Raises:
            DatasetError: A part is damaged.
            StorageError: The disk did not answer.
        """
        if self._places is None:
            self._places = self._read_places()
        prefix = np.uint64(int(sha256[:_PREFIX_DIGITS], 16))
        first = np.searchsorted(self._places["prefix"], prefix, "left")
        end = np.searchsorted(self._places["prefix"], prefix, "right")
        for place in self._places[first:end]:
            group, row = self._group(int(place["group"])), int(place["row"])
            if group is not None and group[0][row] == sha256:
                vector: NDArray[np.float32] = group[1][row]
                return vector
        return None

    def _read_places(self) -> NDArray[np.void]:
        found = [np.empty(0, _PLACE)]
        for name in sorted(part_names(self._dataset.fs)):
            index = 0
            while (rows := self._read(name, index, ["content_hash"])) is not None:
                hashes = rows["content_hash"].to_pylist()
                places = np.empty(len(hashes), _PLACE)
                places["prefix"] = [int(sha256[:_PREFIX_DIGITS], 16) for sha256 in hashes]
                places["group"] = len(self._groups)
                places["row"] = np.arange(len(hashes))
                self._groups.append((name, index))
                found.append(places)
                index += 1
        joined = np.concatenate(found)
        return joined[np.argsort(joined["prefix"], kind="stable")]

    def _group(self, number: int) -> tuple[list[str], NDArray[np.float32]] | None:
        """Return the hashes and vectors (n, D) of a row group; None if its part was replaced."""
        if number not in self._recent:
            rows = self._read(*self._groups[number], ["content_hash", "embedding"])
            self._recent[number] = None if rows is None else self._content(rows)
            if len(self._recent) > _MAX_GROUPS:
                self._recent.popitem(last=False)
        self._recent.move_to_end(number)
        return self._recent[number]

    def _content(self, rows: pa.Table) -> tuple[list[str], NDArray[np.float32]]:
        flat = rows["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = flat.reshape(rows.num_rows, self._dataset.info.dim).astype(np.float32)
        return rows["content_hash"].to_pylist(), vectors

    def _read(self, name: str, index: int, columns: list[str]) -> pa.Table | None:
        """Return columns of a row group of a part; None if there is no such part or group."""
        path = part_path(name)
        try:
            with self._dataset.fs.open(path) as file:
                parquet = open_parquet(file)
                if index >= parquet.num_row_groups:
                    return None
                return read_row_group(parquet, index, columns)
        except FileNotFoundError:
            return None
        except PARQUET_ERRORS as error:
            where = f"{self._dataset.root}/{path}"
            raise parquet_error(error, where, remedy=part_remedy(name)) from error


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
