"""An open index: the nearest rows of queries, and the items and vectors of rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipfleet.errors import DatasetError, UsageError
from clipfleet.retrieval.index.card import CARD_NAME, IndexCard, read_card
from clipfleet.retrieval.index.codes import Codes, read_codes
from clipfleet.retrieval.index.exact_rows import ExactRows
from clipfleet.retrieval.index.folder import index_folder
from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.retrieval.index.rerank import rerank
from clipfleet.retrieval.index.stored_shard import open_shard
from clipfleet.retrieval.neighbours import Neighbours

if TYPE_CHECKING:
    from typing_extensions import Self

BLOCK_ROWS = 65_536
_OPENING_ATTEMPTS = 5  # an append may remove the files of the card that was just read


class Index:
    """An index of n vectors of width D, open for searches from any thread; a context manager.

        with clipfleet.Index.open("indexes/photos") as index:
            found = index.search(queries, 10)
            items = index.items(found.rows[0])

    An index that is open stays what it is while another process appends to it.
    """

    def __init__(self, folder: Path, card: IndexCard) -> None:
        """Use `open`."""
        self.path = folder
        self.card = card
        self._closed = False
        self._starts = card.starts
        self._shards = [open_shard(folder, card, shard) for shard in card.shards]
        self._codes: Codes | None = (
            read_codes(folder / card.codes, mapped=True) if card.codes else None
        )

    @classmethod
    def open(cls, path: str | Path, *, card_name: str = CARD_NAME) -> Self:
        """Map the files of an index into memory; the vectors of an exact one are read.

        Raises:
            UsageError: There is no index at `path`, or it may not be read.
            DatasetError: A file of it is missing or damaged.
        """
        folder = index_folder(path)
        for attempt in range(_OPENING_ATTEMPTS):
            card = read_card(folder, card_name)
            if card is None:
                raise UsageError(
                    f"no index at {folder}: it has no {card_name}; `clipfleet index DATASET "
                    f"{folder}` builds one"
                )
            try:
                return cls(folder, card)
            except FileNotFoundError as error:
                if attempt == _OPENING_ATTEMPTS - 1:
                    raise DatasetError(
                        f"{folder} lacks {error}, which its {card_name} names: build the index "
                        "again, in another folder"
                    ) from error
        raise AssertionError("the loop returns or raises")

    @property
    def dim(self) -> int:
        """The width D of the vectors."""
        return self.card.dim

    def __len__(self) -> int:
        """Return the number n of vectors that a search may find."""
        return self.card.alive_rows

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """Which rows a search may find (rows,): those whose part is still in the dataset."""
        alive = np.ones(self.card.rows, np.bool_)
        for start, end in self.card.removed:
            alive[start:end] = False
        return alive

    def search(
        self,
        queries: NDArray[np.floating[Any]],
        k: int,
        *,
        parameters: SearchParameters | None = None,
    ) -> Neighbours:
        """Return the k nearest rows of queries (q, D), which have L2 norms of 1.

        The scores are exact: the products of a query and a stored vector. Without `parameters`,
        those of the card are used.

        Raises:
            UsageError: The queries are not (q, D), k is below 1, the parameters do not fit, or the
                index is closed.
        """
        wanted = np.ascontiguousarray(queries, np.float32)
        if wanted.ndim != 2 or wanted.shape[1] != self.dim:
            raise UsageError(f"queries have shape {wanted.shape}, expected (q, {self.dim})")
        if k < 1:
            raise UsageError(f"k is {k}: expected at least 1")
        self._check_open()
        used = parameters or self.card.parameters
        self.card.structure.check(used)
        if self._codes is None:
            return self._exact_rows.nearest(wanted, k)
        candidates = self._codes.nearest(wanted, k * used.rerank, used.probes)
        return rerank(wanted, candidates, k, self.vectors)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return the vectors (n, D) of rows (n,), in their order.

        Raises:
            IndexError: There is no such row.
        """
        found = np.empty((len(rows), self.dim), np.float16)
        for number, places, local in self._by_shard(rows):
            found[places] = self._shards[number].vectors[local]
        return found

    def items(self, rows: NDArray[np.int64]) -> pa.Table:
        """Return the items of rows (n,), in their order: columns `id`, and `uri` or `text`.

        Raises:
            IndexError: There is no such row.
            DatasetError: They are not as they were written; each shard is checked once.
        """
        tables, order = [self._schema.empty_table()], np.empty(len(rows), np.int64)
        taken = 0
        for number, places, local in self._by_shard(rows):
            tables.append(self._shards[number].items.take(pa.array(local)))
            order[places] = np.arange(taken, taken + len(local))
            taken += len(local)
        return pa.concat_tables(tables).take(pa.array(order))

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[NDArray[np.float16]]:
        """Yield the vectors (k, D) of all rows in order, removed ones too, `rows` at most."""
        self._check_open()
        for shard in self._shards:
            for start in range(0, len(shard.vectors), rows):
                yield shard.vectors[start : start + rows]

    @property
    def memory_bytes(self) -> int:
        """The bytes that a search keeps in memory: codes, or the vectors of an exact index.

        The vectors that are compared exactly are read from the disk's cache.
        """
        if self.card.codes:
            return (self.path / self.card.codes).stat().st_size
        return self.card.alive_rows * self.dim * np.dtype(np.float16).itemsize

    def close(self) -> None:
        """Let the mapped files go; the index cannot be searched or read any more."""
        self._closed = True
        self._shards, self._codes = [], None
        self.__dict__.pop("_exact_rows", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        model = self.card.model
        return (
            f"<clipfleet.Index {self.path}: {len(self)} vectors of {self.dim}, {self.card.kind}, "
            f"{model.architecture} {model.tower} {model.precision}>"
        )

    def _check_open(self) -> None:
        if self._closed:  # it would find nothing, without an error
            raise UsageError(f"the index {self.path} is closed: open it again")

    @cached_property
    def _exact_rows(self) -> ExactRows:
        return ExactRows(self.blocks(), self.alive, self.dim)

    @property
    def _schema(self) -> pa.Schema:
        value = "uri" if self.card.model.tower == "img" else "text"
        return pa.schema([pa.field(n, pa.string(), nullable=False) for n in ("id", value)])

    def _by_shard(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield each shard's number, the places in `rows` of its rows, and their rows in it."""
        self._check_open()
        wanted = np.asarray(rows, np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self._starts[-1]):
            wrong = wanted[(wanted < 0) | (wanted >= self._starts[-1])][0]
            raise IndexError(f"row {wrong} of an index of {self._starts[-1]} rows")
        owners = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(owners):
            places = np.flatnonzero(owners == number)
            yield int(number), places, wanted[places] - self._starts[number]
