"""A dataset as a reader sees it: its ids, its vectors and its errors, also while a job runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import DatasetError
from clipfleet.model_card import ModelCard
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.format.dataset import Dataset as StoredDataset
from clipfleet.storage.format.dataset import part_names
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_groups,
    stored_vectors,
)
from clipfleet.storage.format.parts import footer_of, part_path, part_remedy, part_schema
from clipfleet.storage.format.results import Failure
from clipfleet.storage.plan.failures import standing_failures
from clipfleet.storage.plan.retries import RetriedIds

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorRow:
    """An item without a vector: its `uri` or `text`, the class of its `error`, and the reason."""

    id: str
    uri: str | None
    text: str | None
    error: str
    message: str
    attempt: int


class Dataset:
    """The vectors of a dataset, in a folder or at `s3://bucket/prefix`.

    The object reads the parts that were there when it was made. A job or a retry adds parts and
    changes none, so ids and vectors stay in step. Only newer content that replaces vectors changes
    parts: reading one raises an error then. `refresh()` looks for newer parts.

    Without `settings`, those of `clipfleet.load_settings()` are used.

    Raises:
        DatasetError: There is no dataset at `path`, or its `dataset.json` is damaged.
    """

    def __init__(self, path: str | Path, *, settings: Settings | None = None) -> None:
        settings = settings or load_settings()
        timeout_s = settings.store_timeout_s
        self._stored = StoredDataset.open(str(path), store_timeout_s=timeout_s)
        self.refresh()

    def refresh(self) -> None:
        """Look which parts there are now."""
        self._parts = sorted(part_names(self._stored.fs))
        self._rows: dict[str, int] = {}  # of each part that was opened
        self._ids: tuple[str, ...] | None = None

    @property
    def path(self) -> str:
        """The absolute path, or the URL."""
        return self._stored.root

    @property
    def model(self) -> ModelCard:
        """The card of the model that made the vectors."""
        return self._stored.info.card

    @property
    def dim(self) -> int:
        """The width D of the vectors."""
        return self._stored.info.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 or float32, as the vectors are stored."""
        return np.dtype(self._stored.info.embedding_dtype)

    def __len__(self) -> int:
        """Return the number n of vectors.

        Raises:
            DatasetError: A part is damaged, or was moved away or replaced.
        """
        for name in self._parts:
            if name not in self._rows:
                with self._open(name):
                    pass
        return sum(self._rows.values())

    @property
    def ids(self) -> tuple[str, ...]:
        """The n ids, in the order of `vectors()`; read once, and kept until `refresh()`.

        Raises:
            DatasetError: A part is damaged, or was moved away or replaced.
        """
        if self._ids is None:
            self._ids = tuple(id_ for rows in self.tables(["id"]) for id_ in rows["id"].to_pylist())
        return self._ids

    def vectors(self) -> Vectors:
        """Return the vectors (n, D), as they are stored (`dtype`), with L2 norms of 1.

        Beside the array itself, memory holds a few thousand vectors at most.

        Raises:
            DatasetError: A part is damaged, or was moved away or replaced.
        """
        vectors = np.empty((len(self), self.dim), self.dtype)
        start = 0
        for rows in self.tables(["embedding"]):
            vectors[start : start + rows.num_rows] = stored_vectors(rows, self.dim)
            start += rows.num_rows
        return vectors

    def batches(self, rows: int = 65_536) -> Iterator[tuple[list[str], Vectors]]:
        """Yield ids and vectors (k, D), `rows` at a time (the last batch may be smaller).

        The batches are those of `ids` and `vectors()` in their order; memory holds one.

        Raises:
            ValueError: `rows` is below 1.
            DatasetError: A part is damaged, or was moved away or replaced.
        """
        if rows < 1:
            raise ValueError(f"rows is {rows}: expected at least 1")
        ids: list[str] = []
        vectors = np.empty((rows, self.dim), self.dtype)
        for group in self.tables(["id", "embedding"]):
            names, found, start = group["id"].to_pylist(), stored_vectors(group, self.dim), 0
            while start < len(names):
                taken = min(rows - len(ids), len(names) - start)
                vectors[len(ids) : len(ids) + taken] = found[start : start + taken]
                ids += names[start : start + taken]
                start += taken
                if len(ids) == rows:
                    yield ids, vectors
                    ids, vectors = [], np.empty((rows, self.dim), self.dtype)
        if ids:
            yield ids, vectors[: len(ids)]

    def errors(self) -> Iterator[ErrorRow]:
        """Yield the items without a vector, in the same parts as `ids` and `vectors()`.

        An item that a retry took up has one row, the newest, or none once it has a vector.

        Raises:
            DatasetError: A part or a plan is damaged, or a part was moved away or replaced.
        """
        with closing(RetriedIds(self._stored, self._parts)) as retried:
            for _, failure in standing_failures(self._parts, self._failures, retried):
                yield ErrorRow(
                    id=failure.item.id,
                    uri=failure.item.uri,
                    text=failure.item.text,
                    error=failure.error,
                    message=failure.message,
                    attempt=failure.attempt,
                )

    def to_arrow(self) -> pa.Table:
        """Return all columns of n rows: id, uri (width, height in pixels) or text, embedding.

        Raises:
            DatasetError: A part is damaged, or was moved away or replaced.
        """
        import pyarrow as pa

        schema = part_schema(self._stored.info)
        groups = list(self.tables(schema.names))
        return pa.concat_tables(groups) if groups else schema.empty_table()

    def __repr__(self) -> str:
        card = self.model
        return (
            f"<clipfleet.Dataset {self.path}: {len(self)} vectors of {self.dim}, "
            f"{card.architecture} {card.tower} {card.precision}>"
        )

    def tables(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yield these columns of all rows, at most 4,096 rows at a time, in the order of `ids`.

        The columns are those of `to_arrow()`.

        Raises:
            DatasetError: A part is damaged, or was moved away or replaced.
        """
        import pyarrow as pa

        whole = part_schema(self._stored.info)
        schema = pa.schema([whole.field(name) for name in columns])
        for name in self._parts:
            with self._open(name) as parquet:
                for rows in read_row_groups(parquet, columns):
                    yield rows.select(columns).cast(schema)

    @contextmanager
    def _open(self, name: str) -> Iterator[pq.ParquetFile]:
        """Yield an open part.

        Raises:
            DatasetError: It is damaged, or was moved away or replaced.
        """
        path = part_path(name)
        try:
            with self._stored.fs.open(path) as file:
                parquet = open_parquet(file)
                count = parquet.metadata.num_rows
                if self._rows.setdefault(name, count) != count:
                    raise DatasetError(
                        f"{self.path}/{path} was replaced: it had {self._rows[name]} rows and has "
                        f"{count}; `refresh()` reads the parts that are there now"
                    )
                yield parquet
        except FileNotFoundError as error:
            raise DatasetError(
                f"{self.path}/{path} was moved away: `refresh()` reads the parts that are there now"
            ) from error
        except (*PARQUET_ERRORS, ValueError) as error:  # ValueError: other columns
            raise parquet_error(error, f"{self.path}/{path}", remedy=part_remedy(name)) from error

    def _failures(self, name: str) -> tuple[Failure, ...]:
        """Return the failures in a part's footer: its errors table may change meanwhile."""
        with self._open(name) as parquet:
            return footer_of(parquet.metadata, path=f"{self.path}/{part_path(name)}").failures
