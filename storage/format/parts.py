"""Parts: the Parquet files of shards' vectors.

The footer of a part also has the shard's failures. So any process that finds a part can write its
errors table and its manifest record; nothing is embedded again.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.errors import DatasetError
from clipfleet.images import ORIGINAL_RULES, PictureRules
from clipfleet.items import Fingerprint, Item
from clipfleet.model_card import ModelCard
from clipfleet.storage.format.checksums import payload_sha256
from clipfleet.storage.format.dataset import PARTS_FOLDER, Column, DatasetInfo
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_bytes,
    parquet_error,
    read_row_groups,
)
from clipfleet.storage.format.stage_seconds import StageSeconds, stage_seconds_of

FORMAT = "1"
ITEMS_PREFIX = "items-"  # begins the names of parts of single items
NORM_TOLERANCE = 1e-3
MAX_ATTEMPT = 1_000_000  # of an item

_TYPES: dict[Column, pa.DataType] = {
    "size_bytes": pa.int64(),
    "mtime_ns": pa.int64(),
    "content_hash": pa.string(),
}

_NAME = re.compile(r"[0-9A-Za-z_-]+")  # of a part: it cannot name a path in another folder

_KEYS = b"clipfleet."  # begins the keys of a footer that are not Arrow's
VERSION_KEY = b"clipfleet.version"
_SHARD_KEY = b"clipfleet.shard"
_MODEL_KEY = b"clipfleet.model"
_CARD_KEY = b"clipfleet.model_card"
_ENGINE_KEY = b"clipfleet.engine_sha256"
_DECODE_KEY = b"clipfleet.decode"
_FAILURES_KEY = b"clipfleet.failures"
_WORKER_KEY = b"clipfleet.worker"
_FINISHED_KEY = b"clipfleet.finished_at"
_RETRIES_KEY = b"clipfleet.retries"
_REPLACED_KEY = b"clipfleet.replaced"
_CUT_KEY = b"clipfleet.cut"
_TRANSPARENT_KEY = b"clipfleet.transparent"
_WITHOUT_END_KEY = b"clipfleet.without_end"
_COPIED_KEY = b"clipfleet.copied"
_SECONDS_KEY = b"clipfleet.seconds"
_PAYLOAD_KEY = b"clipfleet.payload_sha256"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An item without a vector; `error` is one of `clipfleet.error_codes.ERROR_CODES`."""

    item: Item
    error: str
    message: str
    attempt: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """The results of embedding items: every item is in `items` or in `failures`, in order.

    `vectors` is float32 (len(items), D) with L2 norms of 1. `sizes` are the images' original
    (width, height) in pixels, None for texts. `retries` names the parts in which these items were
    failures before, `replaced` those in which they have vectors of earlier content. `cut` are the
    ids of texts longer than the model's context length: only their beginnings were embedded.
    `transparent` are the ids of images with a transparent pixel, `without_end` those of JPEG files
    that lack their ends.
    `fingerprints` are those of the items, None if the dataset has no column of them. `copied`
    counts the vectors that are copies of those of items with equal bytes.
    """

    items: list[Item]
    vectors: NDArray[np.float32]
    sizes: list[tuple[int, int]] | None
    failures: list[Failure]
    retries: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    cut: frozenset[str] = frozenset()
    transparent: frozenset[str] = frozenset()
    without_end: frozenset[str] = frozenset()
    fingerprints: list[Fingerprint] | None = None
    copied: int = 0
    seconds: StageSeconds | None = None  # None: nobody measured them


@dataclass(frozen=True, kw_only=True, slots=True)
class Footer:
    """The metadata of a part; `decode` and `rules` are as in `DatasetInfo`.

    `vectors` counts the rows, `cut`, `transparent` and `without_end` those that `Embedded` names;
    `retries`, `replaced` and `copied` are as there. `card` is the model card's JSON.
    """

    shard: str
    model: str  # ModelCard.identity
    engine_sha256: str
    worker: str
    finished_at: str  # ISO 8601, UTC
    vectors: int
    failures: tuple[Failure, ...]
    retries: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    cut: int = 0
    transparent: int = 0
    without_end: int = 0
    copied: int = 0
    decode: str = "exact"
    rules: PictureRules = ORIGINAL_RULES
    card: str = ""
    seconds: StageSeconds | None = None  # older parts, and parts of single items, lack it
    payload_sha256: str | None = None  # older parts lack it


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
    card_text = json.dumps(json.loads(card.to_json()))
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
        card=card_text,
        seconds=embedded.seconds,
    )
    metadata = {
        VERSION_KEY: FORMAT,
        _SHARD_KEY: footer.shard,
        _MODEL_KEY: footer.model,
        _CARD_KEY: card_text,
        _ENGINE_KEY: footer.engine_sha256,
        _WORKER_KEY: footer.worker,
        _FINISHED_KEY: footer.finished_at,
        _FAILURES_KEY: json.dumps([_failure_fields(f) for f in footer.failures]),
        _RETRIES_KEY: json.dumps(footer.retries),
        _REPLACED_KEY: json.dumps(footer.replaced),
        _CUT_KEY: json.dumps(footer.cut),
        _COPIED_KEY: json.dumps(footer.copied),
    }
    if footer.decode != "exact":
        metadata[_DECODE_KEY] = footer.decode
    for key, count in (
        (_TRANSPARENT_KEY, footer.transparent),
        (_WITHOUT_END_KEY, footer.without_end),
    ):
        if count:
            metadata[key] = json.dumps(count)
    metadata |= {_KEYS + rule.encode(): value for rule, value in footer.rules.to_stored().items()}
    if footer.seconds is not None:
        metadata[_SECONDS_KEY] = json.dumps(asdict(footer.seconds))
    data, digest = _with_digest(table, metadata)
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
        found = payload_sha256(rows, _metadata_of(parquet.metadata))
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
        metadata = parquet.metadata or {}
        failures = [failure_of(fields) for fields in json.loads(metadata[_FAILURES_KEY])]
        return Footer(
            shard=plain_name(metadata[_SHARD_KEY].decode()),
            model=metadata[_MODEL_KEY].decode(),
            engine_sha256=metadata[_ENGINE_KEY].decode(),
            worker=metadata[_WORKER_KEY].decode(),
            finished_at=metadata[_FINISHED_KEY].decode(),
            vectors=parquet.num_rows,
            failures=tuple(failures),
            # Older parts lack some of these keys.
            retries=tuple(map(plain_name, json.loads(metadata.get(_RETRIES_KEY, b"[]")))),
            replaced=tuple(map(plain_name, json.loads(metadata.get(_REPLACED_KEY, b"[]")))),
            cut=_count(json.loads(metadata.get(_CUT_KEY, b"0"))),
            transparent=_count(json.loads(metadata.get(_TRANSPARENT_KEY, b"0"))),
            without_end=_count(json.loads(metadata.get(_WITHOUT_END_KEY, b"0"))),
            copied=_count(json.loads(metadata.get(_COPIED_KEY, b"0"))),
            decode=metadata.get(_DECODE_KEY, b"exact").decode(),
            rules=_rules_of(metadata),
            card=metadata.get(_CARD_KEY, b"").decode(),
            seconds=stage_seconds_of(text) if (text := metadata.get(_SECONDS_KEY)) else None,
            payload_sha256=metadata[_PAYLOAD_KEY].decode() if _PAYLOAD_KEY in metadata else None,
        )
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
    metadata = {key: value.decode() for key, value in _metadata_of(parquet.metadata).items()}
    metadata[_FAILURES_KEY] = json.dumps([_failure_fields(f) for f in failures])
    for key in (_CUT_KEY, _TRANSPARENT_KEY, _WITHOUT_END_KEY, _COPIED_KEY):
        if key in metadata:
            metadata[key] = json.dumps(min(json.loads(metadata[key]), len(kept)))
    return _with_digest(table.take(pa.array(kept, pa.int64())), metadata)[0]


def _metadata_of(parquet: pq.FileMetaData) -> dict[bytes, bytes]:
    """Return the values of a part's footer that its payload has."""
    found = parquet.metadata.items()
    return {k: value for k, value in found if k.startswith(_KEYS) and k != _PAYLOAD_KEY}


def _with_digest(table: pa.Table, metadata: dict[bytes, str]) -> tuple[memoryview, str]:
    """Return a part's file and the digest of its payload."""
    digest = payload_sha256([table], {key: value.encode() for key, value in metadata.items()})
    return parquet_bytes(table, {**metadata, _PAYLOAD_KEY: digest}), digest


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


def _failure_fields(failure: Failure) -> dict[str, Any]:
    item = failure.item
    value = {"uri": item.uri} if item.uri is not None else {"text": item.text}
    reason = {"error": failure.error, "message": failure.message, "attempt": failure.attempt}
    return {"id": item.id, **value, **reason}


def failure_of(fields: dict[str, Any]) -> Failure:
    """Return the failure that a JSON object or a row describes.

    Raises:
        LookupError, TypeError, ValueError: It describes no failure.
    """
    error, message, attempt = fields["error"], fields["message"], _count(fields["attempt"])
    if not (isinstance(error, str) and isinstance(message, str)) or attempt > MAX_ATTEMPT:
        raise ValueError(f"not a failure: {fields!s:.200}")
    for value in (error, message):
        value.encode()  # JSON may have half a surrogate pair
    return Failure(
        item=Item(id=fields["id"], uri=fields.get("uri"), text=fields.get("text")),
        error=error,
        message=message,
        attempt=attempt,
    )


def plain_name(name: str) -> str:
    """Return a part's name unchanged.

    Raises:
        ValueError: It is no part's name, and could name a path in another folder.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is no part's name")
    return name


def _rules_of(metadata: Mapping[bytes, bytes]) -> PictureRules:
    """Return the picture rules that a footer names."""
    keys = {field.name: _KEYS + field.name.encode() for field in fields(PictureRules)}
    found = {name: metadata[key].decode() for name, key in keys.items() if key in metadata}
    return PictureRules.from_stored(found)


def _count(number: int) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!s:.100} is no count")
    return number
