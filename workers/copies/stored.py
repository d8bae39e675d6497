"""The vectors of a dataset with content hashes, by the SHA-256 of the bytes they were made of."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipfleet.errors import DatasetError
from clipfleet.storage.format.dataset import Dataset, part_names
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_columns,
    read_row_group,
    stored_vectors,
)
from clipfleet.storage.format.parts import footer_of, part_path, part_remedy
from clipfleet.workers.copies.contents import Contents, Prefixes, prefixes_of

_READERS = 8  # threads: an object store answers each request after some 20 ms
_LIST_PAUSE = 10  # times as long as listing the parts takes, the next list waits

T = TypeVar("T")
Vector = NDArray[np.float32]  # (D,)

log = logging.getLogger(__name__)


class StoredVectors:
    """The vectors in the parts of a dataset, also in those that others commit meanwhile.

    Memory holds 12 bytes for each content, at most `max_contents` of them. A damaged part is told,
    and has no vectors.
    """

    def __init__(self, dataset: Dataset, *, max_contents: int | None = None) -> None:
        self.dataset = dataset
        self._max_contents = max_contents
        self._contents = Contents()
        self._parts: list[str] = []  # the names, by number
        self._seen: set[str] = set()
        self._next_list_s = 0.0

    def look(self) -> None:
        """Learn the contents of the parts that are new since the last look.

        The parts are listed for a tenth of the time at most.

        Raises:
            StorageError: The disk did not answer.
        """
        begin_s = monotonic()
        if begin_s < self._next_list_s or self._full:
            return
        names = sorted(part_names(self.dataset.fs) - self._seen)
        end_s = monotonic()
        self._next_list_s = end_s + _LIST_PAUSE * (end_s - begin_s)
        if not names:
            return
        with ThreadPoolExecutor(min(_READERS, len(names))) as pool:
            for name, prefixes in zip(names, pool.map(self._prefixes, names), strict=True):
                self._seen.add(name)
                if prefixes is not None and len(prefixes):
                    self._contents.add(prefixes, len(self._parts))
                    self._parts.append(name)
                if self._full:
                    break  # the others are not read
        if self._full:
            log.warning(
                "%s has %d contents or more: equal bytes in later parts may be embedded again",
                self.dataset.root,
                self._max_contents,
            )

    def __contains__(self, sha256: str) -> bool:
        """Whether a part had this content at the last look; `take` says whether it has it now."""
        return self._contents.find(sha256) is not None

    def take(self, hashes: Collection[str]) -> dict[str, Vector]:
        """Return the vectors of contents, those that the parts have, by SHA-256.

        Raises:
            StorageError: The disk did not answer.
        """
        wanted: defaultdict[int, list[str]] = defaultdict(list)
        for sha256 in hashes:
            part = self._contents.find(sha256)
            if part is not None:
                wanted[part].append(sha256)
        found: dict[str, Vector] = {}
        if wanted:
            names = [self._parts[part] for part in wanted]
            with ThreadPoolExecutor(min(_READERS, len(names))) as pool:
                for vectors in pool.map(self._vectors, names, wanted.values()):
                    found.update(vectors or {})
        return found

    @property
    def _full(self) -> bool:
        return self._max_contents is not None and len(self._contents) >= self._max_contents

    def _prefixes(self, name: str) -> Prefixes | None:
        def read(parquet: pq.ParquetFile) -> Prefixes:
            return prefixes_of(read_columns(parquet, ["content_hash"])["content_hash"].to_pylist())

        return self._read(name, read)

    def _vectors(self, name: str, hashes: list[str]) -> dict[str, Vector] | None:
        def read(parquet: pq.ParquetFile) -> dict[str, Vector]:
            known = read_columns(parquet, ["content_hash"])["content_hash"].to_pylist()
            rows = {sha256: row for row, sha256 in enumerate(known)}
            found: dict[str, Vector] = {}
            begin = 0
            for group in range(parquet.num_row_groups):
                end = begin + parquet.metadata.row_group(group).num_rows
                here = [sha256 for sha256 in hashes if begin <= rows.get(sha256, -1) < end]
                if here:
                    vectors = stored_vectors(
                        read_row_group(parquet, group, ["embedding"]), self.dataset.info.dim
                    )
                    for sha256 in here:  # a copy of the row, for groups are large
                        found[sha256] = vectors[rows[sha256] - begin].astype(np.float32)
                begin = end
            return found

        return self._read(name, read)

    def _read(self, name: str, read: Callable[[pq.ParquetFile], T]) -> T | None:
        """Return what `read` finds in a part; None if there is no sound part of this name."""
        path = part_path(name)
        where = f"{self.dataset.root}/{path}"
        try:
            with self.dataset.fs.open(path) as file:
                parquet = open_parquet(file)
                model = footer_of(parquet.metadata, path=where).model
                if model != self.dataset.info.model:
                    raise DatasetError(f"{where} is of another model: {part_remedy(name)}")
                return read(parquet)
        except FileNotFoundError:
            return None
        except DatasetError as error:
            damage = error
        except (*PARQUET_ERRORS, ValueError) as error:
            found = parquet_error(error, where, remedy=part_remedy(name))
            if not isinstance(found, DatasetError):
                raise found from error
            damage = found
        log.warning("no vector is copied from a part: %s", damage)
        return None
