"""Parts: the Parquet files of shards' vectors.

The footer of a part also has the shard's failures. So any process that finds a part can write its
errors table and its manifest record; nothing is embedded again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.errors import DatasetError
from clipfleet.items import Fingerprint, Item
from clipfleet.model_card import ModelCard
from clipfleet.storage.format.checksums import payload_sha256
from clipfleet.storage.format.dataset import PARTS_FOLDER
from clipfleet.storage.format.dataset_info import Column, DatasetInfo
from clipfleet.storage.format.footer import (
    PAYLOAD_KEY,
    Footer,
    footer_with,
    parse_footer,
    payload_metadata,
    stored_footer,
)
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_bytes,
    parquet_error,
    read_row_groups,
)
from clipfleet.storage.format.results import Embedded, Failure

ITEMS_PREFIX = "items-"  # begins the names of parts of single items
NORM_TOLERANCE = 1e-3

_TYPES: dict[Column, pa.DataType] = {
    "size_bytes": pa.int64(),
    "mtime_ns": pa.int64(),
    "content_hash": pa.string(),
}


def part_path(name: str) -> str:
    """Return the path of a shard's part in its dataset."""
    return f"{PARTS_FOLDER}/{name}.parquet"


def part_remedy(name: str) -> str:
    """Return the remedy for a damaged part, for messages."""
    if name.startswith(ITEMS_PREFIX):  # no plan has its items
        return "`clipfleet repair` moves it away and names its items: queue them again"
    return "`clipfleet repair` moves it away and embeds its shard again"


def value_column(tower: Tower) -> str:
    """Return the name of the column of items: `uri` for images, `text` for texts."""
    return "uri" if tower == "img" else "text"


def item_value(item: Item) -> str:
    """Return an item's uri or text."""
    return item.uri if item.uri is not None else item.text or ""


def part_schema(info: DatasetInfo) -> pa.Schema:
    """Return a part's columns: id, uri or text, width and height of images, …, embedding."""
    dtype = pa.float16() if info.embedding_dtype == "float16" else pa.float32()
    sizes = [pa.field(name, pa.int32(), nullable=False) for name in ("width", "height")]
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field(value_column(info.tower), pa.string(), nullable=False),
            *(sizes if info.tower == "img" else []),
            *(pa.field(name, _TYPES[name], nullable=False) for name in info.columns),
            pa.field("embedding", pa.list_(dtype, info.dim), nullable=False),
        ]
    )


def part_of(
    embedded: Embedded,
    info: DatasetInfo,
    card: ModelCard,
    name: str,
    *,
    worker: str = "",
    finished_at: str = "",
) -> tuple[memoryview, Footer]:
    """Return the Parquet file of the shard `name`, and its footer.

    Raises:
        DatasetError: The vectors are not (len(items), D), not finite, or not of norm 1.
    """
    _check(embedded, info, name)
    table = _part_table(embedded, info)
    footer = Footer(
        shard=name,
        model=card.identity,
        engine_sha256=card.engine_sha256,
        worker=worker,
        finished_at=finished_at,
        vectors=len(embedded.items),
        failures=tuple(embedded.failures),
        retries=embedded.retries,
        replaced=embedded.replaced,
        cut=sum(item.id in embedded.cut for item in embedded.items),
        transparent=sum(item.id in embedded.transparent for item in embedded.items),
        without_end=sum(item.id in embedded.without_end for item in embedded.items),
        copied=embedded.copied,
        decode=info.decode,
        rules=info.rules,
        card=json.dumps(json.loads(card.to_json())),
        seconds=embedded.seconds,
    )
    data, digest = _with_digest(table, stored_footer(footer))
    return data, replace(footer, payload_sha256=digest)


def read_footer(file: BinaryIO, *, path: str) -> Footer:
    """Return the footer of the part in `file`; `path` is for messages.

    Raises:
        DatasetError: It is damaged, or was not written by clipfleet.
        StorageError: The disk did not answer.
    """
    try:
        return footer_of(open_parquet(file).metadata, path=path)
    except PARQUET_ERRORS as error:
        remedy = part_remedy(PurePosixPath(path).stem)
        raise parquet_error(error, path, remedy=remedy) from error


def check_payload(data: bytes, *, path: str) -> Footer:
    """Return the footer of a whole part whose payload has the checksum in the footer.

    An older part has no checksum: its payload is not checked.

    Raises:
        DatasetError: It is damaged, or was not written by clipfleet.
    """
    remedy = part_remedy(PurePosixPath(path).stem)
    try:
        parquet = open_parquet(io.BytesIO(data))
        footer = footer_of(parquet.metadata, path=path)
        if footer.payload_sha256 is None:
            return footer
        rows = read_row_groups(parquet, parquet.schema_arrow.names)
        found = payload_sha256(rows, payload_metadata(parquet.metadata))
    except PARQUET_ERRORS as error:
        raise parquet_error(error, path, remedy=remedy) from error
    if found != footer.payload_sha256:
        raise DatasetError(
            f"{path} is damaged (the SHA-256 of its payload is {found}, its footer says "
            f"{footer.payload_sha256}): {remedy}"
        )
    return footer


def footer_of(parquet: pq.FileMetaData, *, path: str) -> Footer:
    """Return the footer of an open part; `path` is for messages.

    Raises:
        DatasetError: It was not written by clipfleet.
    """
    try:
        return parse_footer(parquet)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        remedy = part_remedy(PurePosixPath(path).stem)
        raise parquet_error(error, path, remedy=remedy) from error


def row_ids(file: BinaryIO, *, path: str) -> list[str]:
    """Return the ids of the vectors of the part in `file`; `path` is for messages.

    Raises:
        DatasetError: It is damaged.
        StorageError: The disk did not answer.
    """
    try:
        groups = read_row_groups(open_parquet(file), ["id"])
        return [id_ for rows in groups for id_ in rows["id"].to_pylist()]
    except PARQUET_ERRORS as error:
        raise parquet_error(error, path, remedy=part_remedy(PurePosixPath(path).stem)) from error


def without_rows(
    file: BinaryIO, taken: Mapping[str, Failure], info: DatasetInfo, *, path: str
) -> memoryview:
    """Return a part again, with failures in place of the vectors of some ids.

    A failure keeps the row's uri or text. `cut`, `transparent`, `without_end` and `copied` of the
    footer keep their counts, as far as there are rows: a part does not say which rows they count.

    Raises:
        DatasetError: The part is damaged, or was not written by clipfleet.
        StorageError: The disk did not answer.
    """
    try:
        return _without_rows(open_parquet(file), taken, info, path)
    except (*PARQUET_ERRORS, ValueError) as error:  # ValueError: other columns or metadata
        raise parquet_error(error, path, remedy=part_remedy(PurePosixPath(path).stem)) from error


def _without_rows(
    parquet: pq.ParquetFile, taken: Mapping[str, Failure], info: DatasetInfo, path: str
) -> memoryview:
    column, schema = value_column(info.tower), part_schema(info)
    groups = (group.cast(schema) for group in read_row_groups(parquet, schema.names))
    table = pa.concat_tables([schema.empty_table(), *groups])
    footer = footer_of(parquet.metadata, path=path)
    rows = zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True)
    failures, kept = list(footer.failures), []
    for n, (id_, value) in enumerate(rows):
        if id_ in taken:
            failures.append(replace(taken[id_], item=Item(id=id_, **{column: value})))
        else:
            kept.append(n)
    metadata = footer_with(failures, parquet.metadata, rows=len(kept))
    return _with_digest(table.take(pa.array(kept, pa.int64())), metadata)[0]


def _with_digest(table: pa.Table, metadata: dict[bytes, str]) -> tuple[memoryview, str]:
    """Return a part's file and the digest of its payload."""
    digest = payload_sha256([table], {key: value.encode() for key, value in metadata.items()})
    return parquet_bytes(table, {**metadata, PAYLOAD_KEY: digest}), digest


def _check(embedded: Embedded, info: DatasetInfo, name: str) -> None:
    vectors, expected = embedded.vectors, (len(embedded.items), info.dim)
    if vectors.shape != expected:
        raise DatasetError(f"shard {name}: vectors have shape {vectors.shape}, expected {expected}")
    if (embedded.sizes is None) != (info.tower == "txt"):
        raise DatasetError(f"shard {name}: sizes belong to images, the dataset is {info.tower}")
    if embedded.sizes is not None and len(embedded.sizes) != len(embedded.items):
        raise DatasetError(f"shard {name}: {len(embedded.sizes)} sizes for {expected[0]} items")
    known = len(embedded.fingerprints or [])
    if info.columns and known != len(embedded.items):
        raise DatasetError(f"shard {name}: {known} fingerprints for {expected[0]} items")
    wrong = np.flatnonzero(~(np.abs(norms(vectors) - 1) < NORM_TOLERANCE))  # NaN is wrong too
    if wrong.size:
        item, norm = embedded.items[wrong[0]], norms(vectors)[wrong[0]]
        raise DatasetError(
            f"shard {name}: {wrong.size} vectors are not of norm 1; the first is {item.id!r} "
            f"with norm {norm:g}"
        )


def norms(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return the L2 norms (n,) of vectors (n, D), computed in float32."""
    exact = vectors.astype(np.float32, copy=False)
    squares: NDArray[np.float32] = np.einsum("nd,nd->n", exact, exact)
    return np.sqrt(squares)


def _part_table(embedded: Embedded, info: DatasetInfo) -> pa.Table:
    schema = part_schema(info)
    flat = embedded.vectors.astype(info.embedding_dtype).reshape(-1)
    columns = [
        pa.array([item.id for item in embedded.items], pa.string()),
        pa.array([item_value(item) for item in embedded.items], pa.string()),
    ]
    if embedded.sizes is not None:
        sizes = np.array(embedded.sizes, np.int32).reshape(-1, 2)
        columns += [pa.array(sizes[:, 0]), pa.array(sizes[:, 1])]
    columns += _fingerprint_columns(embedded.fingerprints or [], info)
    columns.append(
        pa.FixedSizeListArray.from_arrays(pa.array(flat), type=schema.field("embedding").type)
    )
    return pa.Table.from_arrays(columns, schema=schema)


def _fingerprint_columns(found: list[Fingerprint], info: DatasetInfo) -> list[pa.Array]:
    values = {
        "size_bytes": [one.size_bytes for one in found],
        "mtime_ns": [one.mtime_ns for one in found],
        "content_hash": [one.sha256 for one in found],
    }
    return [pa.array(values[name], _TYPES[name]) for name in info.columns]
