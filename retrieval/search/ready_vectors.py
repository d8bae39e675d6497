"""Queries that have vectors already: a dataset, a Parquet file, or JSONL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipfleet.error_codes import BAD_ITEM, NON_FINITE
from clipfleet.errors import SourceError
from clipfleet.model_card import ModelCard, parse_card
from clipfleet.reader import Dataset
from clipfleet.retrieval.search.queries import NoVector, Queries, Vectors
from clipfleet.storage.filesystem.locations import in_object_store
from clipfleet.storage.format.dataset_info import INFO_PATH
from clipfleet.storage.format.footer import VERSION_KEY
from clipfleet.storage.format.parquet import PARQUET_ERRORS
from clipfleet.storage.format.parts import footer_of
from clipfleet.storage.tables.columns import ID_COLUMNS, as_id, show
from clipfleet.storage.tables.json_tables import json_rows

VECTOR_COLUMNS = ("embedding", "vector", "feature")  # the last one is the guide's

_BUFFER_BYTES = 1 << 20  # of a column; pyarrow's defaults keep all that was read in memory
_MIN_NORM = 1e-6  # below it, a vector has no direction that float16 can hold


def is_dataset(location: str) -> bool:
    """Return whether a location is a dataset; in an object store nothing else is read."""
    return in_object_store(location) or Path(location, INFO_PATH).is_file()


def model_of(location: str) -> ModelCard | None:
    """Return the card of the model that made ready vectors; None if nothing says it.

    A dataset says it, and so does a part that was copied from one.

    Raises:
        SourceError: The file cannot be read.
        DatasetError: The dataset or the part is damaged.
    """
    if is_dataset(location):
        return Dataset(location).model
    if not location.lower().endswith(".parquet"):
        return None
    try:
        metadata = pq.read_metadata(location)
    except PARQUET_ERRORS as error:
        raise SourceError(f"{location} cannot be read as Parquet: {error}") from error
    if VERSION_KEY not in (metadata.metadata or {}):
        return None
    card = footer_of(metadata, path=location).card
    return parse_card(card, origin=f"of {location}") if card else None


def has_vectors(path: str) -> bool:
    """Return whether a Parquet or JSONL file has a column of vectors, by its schema or first row.

    Raises:
        SourceError: The file cannot be read.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".parquet" and Path(path).is_file():
        try:
            names = pq.read_schema(path).names
        except PARQUET_ERRORS as error:
            raise SourceError(f"{path} cannot be read as Parquet: {error}") from error
        return _first(VECTOR_COLUMNS, names) is not None
    if suffix in (".jsonl", ".ndjson"):
        return any(
            _first(VECTOR_COLUMNS, list(row)) is not None for _, row in islice(json_rows(path), 1)
        )
    return False


def ready_queries(
    location: str, *, dim: int, size: int, id_column: str | None = None
) -> Iterator[Queries]:
    """Yield the queries of a dataset or a file with vectors, `size` at a time.

    A row without a vector of `dim` finite numbers is a failure, and so is each item of a dataset
    that has none.

    Raises:
        SourceError: The file cannot be read, or has other columns.
        DatasetError: A part of the dataset is damaged.
    """
    if is_dataset(location):
        batches = _of_dataset(Dataset(location), dim, size)
    elif location.lower().endswith(".parquet"):
        batches = _of_parquet(location, dim, size, id_column)
    else:
        batches = _of_jsonl(location, dim, size, id_column)
    first = 0
    for ids, vectors, failures in batches:
        yield _queries(first, ids, vectors, failures)
        first += len(ids)


_Batch = tuple[list[str], Vectors, dict[int, NoVector]]  # vectors (n, D): zeros for the failures


def _of_dataset(dataset: Dataset, dim: int, size: int) -> Iterator[_Batch]:
    for ids, vectors in dataset.batches(size):
        yield ids, vectors.astype(np.float32), {}
    errors = dataset.errors()
    while failed := list(islice(errors, size)):
        yield (
            [row.id for row in failed],
            np.zeros((len(failed), dim), np.float32),
            {n: NoVector(error=row.error, message=row.message) for n, row in enumerate(failed)},
        )


def _of_parquet(path: str, dim: int, size: int, id_column: str | None) -> Iterator[_Batch]:
    row = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            id_name, name = _columns(file.schema_arrow.names, id_column, location=path)
            for batch in file.iter_batches(size, columns=[id_name, name]):
                ids = [
                    as_id(value, location=f"{path}, row {row + n}")
                    for n, value in enumerate(batch.column(id_name).to_pylist(), 1)
                ]
                row += len(ids)
                yield ids, *_vectors_of(batch.column(name), dim, path)
    except PARQUET_ERRORS as error:
        raise SourceError(f"{path} cannot be read as Parquet: {error}") from error


def _vectors_of(column: pa.Array, dim: int, path: str) -> tuple[Vectors, dict[int, NoVector]]:
    """Return the rows of a column of lists, float32 (n, D), and a failure for each other row."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    kind = column.type
    if not any(is_kind(kind) for is_kind in lists) or not _is_number(kind.value_type):
        raise SourceError(f"{path}: the vectors are of type {kind}, expected lists of numbers")
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    right = lengths == dim
    vectors = np.zeros((len(column), dim), np.float32)
    flat = pc.list_flatten(column.filter(pa.array(right))).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # float64 beyond float32 is infinite: a failure
        vectors[right] = flat.reshape(-1, dim)
    wrong = np.flatnonzero(~right)
    return vectors, {int(n): _wrong_length(int(lengths[n]), dim) for n in wrong}


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _of_jsonl(path: str, dim: int, size: int, id_column: str | None) -> Iterator[_Batch]:
    rows = json_rows(path)
    while chunk := list(islice(rows, size)):
        ids, vectors, failures = [], np.zeros((len(chunk), dim), np.float32), {}
        for n, (location, row) in enumerate(chunk):
            id_name, name = _columns(list(row), id_column, location=location)
            ids.append(as_id(row[id_name], location=location))
            found = _vector_of(row[name], dim)
            if isinstance(found, NoVector):
                failures[n] = found
            else:
                vectors[n] = found
        yield ids, vectors, failures


def _vector_of(value: object, dim: int) -> Vectors | NoVector:
    if not isinstance(value, list):
        return _wrong_length(-1, dim)
    if len(value) != dim or not all(isinstance(number, int | float) for number in value):
        return _wrong_length(len(value), dim)
    try:
        with np.errstate(over="ignore"):
            return np.array(value, np.float32)
    except OverflowError:  # JSON has whole numbers of any length
        return NoVector(error=NON_FINITE, message="the vector has a number that is too large")


def _wrong_length(length: int, dim: int) -> NoVector:
    found = f"it has {length} values" if length >= 0 else "it is no list of numbers"
    return NoVector(error=BAD_ITEM, message=f"the vector: {found}, expected {dim} numbers")


def _queries(
    first: int, ids: list[str], vectors: Vectors, failures: dict[int, NoVector]
) -> Queries:
    """Return queries with unit vectors; one without a direction is a failure."""
    norms = np.linalg.norm(vectors, axis=1)  # (n,)
    for row in np.flatnonzero(~(np.isfinite(norms) & (norms > _MIN_NORM))):
        reason = NoVector(error=NON_FINITE, message=f"the vector has the norm {norms[row]:g}")
        failures.setdefault(int(row), reason)
    bad = list(failures)
    norms[bad] = 1
    unit = vectors / norms[:, None]
    unit[bad] = 0
    return Queries(
        first=first,
        ids=ids,
        tower=None,
        asked=[None] * len(ids),
        vectors=unit,
        failures=failures,
    )


def _columns(present: Sequence[str], id_column: str | None, *, location: str) -> tuple[str, str]:
    """Return the names of the columns of ids and vectors.

    Raises:
        SourceError: One of them is not there.
    """
    ids = (id_column,) if id_column else ID_COLUMNS
    id_name, name = _first(ids, present), _first(VECTOR_COLUMNS, present)
    if id_name is None or name is None:
        wanted = ids if id_name is None else VECTOR_COLUMNS
        raise SourceError(
            f"{location}: no column {' or '.join(map(repr, wanted))} among {show(sorted(present))}"
        )
    return id_name, name


def _first(names: Sequence[str], present: Sequence[str]) -> str | None:
    return next((name for name in names if name in present), None)
