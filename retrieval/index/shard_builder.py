"""A shard of an index is built: its vectors, items and codes are written, then its record."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipfleet.engine_files import sha256_of
from clipfleet.errors import DatasetError, StorageError
from clipfleet.retrieval.index.card import IndexedPart, IndexShard
from clipfleet.retrieval.index.codes import Codes, read_codes
from clipfleet.retrieval.index.dataset_parts import (
    EMBEDDING,
    float16_vectors,
    item_columns,
    read_part,
)
from clipfleet.retrieval.index.folder import (
    ITEMS_NAME,
    RECORD_NAME,
    SHARD_CODES_NAME,
    VECTORS_NAME,
    shard_folder,
    sync,
)
from clipfleet.retrieval.index.plan import BuildPlan
from clipfleet.storage.filesystem.local import TEMPORARY_FOLDER
from clipfleet.storage.format.dataset import Dataset
from clipfleet.validation import problems

Step = Callable[[int], None]  # is told how many rows were written

_STRICT = ConfigDict(extra="forbid")
_EXISTS = {errno.EEXIST, errno.ENOTEMPTY}


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class ShardRecord:
    """`record.json` of a shard: its parts, the SHA-256 of its files, and the time that it took."""

    parts: tuple[IndexedPart, ...]
    vectors_sha256: str
    items_sha256: str
    seconds: float
    format: Literal[1] = 1


_RECORD = TypeAdapter(ShardRecord)


def read_shard_record(folder: Path, name: str) -> ShardRecord:
    """Return the record of a shard.

    Raises:
        DatasetError: It is missing or damaged.
    """
    path = shard_folder(folder, name) / RECORD_NAME
    try:
        return _RECORD.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else problems(error)
        raise DatasetError(
            f"{path} is missing or damaged ({reason}): build the index again, in another folder"
        ) from error


def build_shard(
    dataset: Dataset, folder: Path, plan: BuildPlan, shard: IndexShard, *, show: Step
) -> bool:
    """Build a planned shard; return False if another process has built it meanwhile.

    The shard's folder appears whole. Memory holds its codes, a part's file and a row group.

    Raises:
        DatasetError: A part was changed, moved away, or is damaged.
        StorageError: A disk or the object store does not answer, or refuses a write.
    """
    started_s = time.monotonic()
    codes = read_codes(folder / plan.trained) if plan.trained else None
    temporary = folder / TEMPORARY_FOLDER / f"shard-{shard.name}-{uuid.uuid4().hex}"
    with _storage_errors(temporary):
        temporary.mkdir(parents=True)
        try:
            _write_rows(dataset, shard, temporary, codes, show)
            if codes is not None:
                codes.save(temporary / SHARD_CODES_NAME)
            record = ShardRecord(
                parts=shard.parts,
                vectors_sha256=sha256_of(temporary / VECTORS_NAME),
                items_sha256=sha256_of(temporary / ITEMS_NAME),
                seconds=round(time.monotonic() - started_s, 3),
            )
            (temporary / RECORD_NAME).write_bytes(_RECORD.dump_json(record, indent=1))
            return _appears(temporary, shard_folder(folder, shard.name))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_rows(
    dataset: Dataset, shard: IndexShard, folder: Path, codes: Codes | None, show: Step
) -> None:
    """Write vectors and items in one pass over the parts, so that their rows are the same."""
    names = item_columns(dataset)
    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in names])
    with (
        (folder / VECTORS_NAME).open("xb") as vectors_file,
        pa.OSFile(str(folder / ITEMS_NAME), "wb") as sink,
        pa.ipc.new_file(sink, schema) as items_file,
    ):
        for part in shard.parts:
            written = 0
            for rows in read_part(dataset, part, [*names, EMBEDDING]):
                vectors = float16_vectors(rows, dataset.info.dim)
                vectors_file.write(vectors.data)
                items_file.write_table(rows.select(names).cast(schema))
                if codes is not None:
                    codes.add(vectors)
                written += len(vectors)
                show(len(vectors))
            if written != part.rows:
                raise DatasetError(
                    f"part {part.name} of {dataset.root} has {written} vectors, and its record "
                    f"says {part.rows}: `clipfleet repair` mends the dataset"
                )


def _appears(temporary: Path, final: Path) -> bool:
    """Give a finished folder its name; return False if there is one already."""
    for path in temporary.iterdir():
        sync(path)
    sync(temporary)
    final.parent.mkdir(exist_ok=True)
    try:
        os.rename(temporary, final)
    except OSError as error:
        if error.errno in _EXISTS:
            return False
        raise
    sync(final.parent)
    return True


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free some space, and run again"
        ) from error
