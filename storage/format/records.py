"""Records: what the manifest says of each shard that is done, and which files lie where."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from clipfleet.errors import DatasetError
from clipfleet.storage.filesystem.base import Filesystem
from clipfleet.storage.format.dataset import ERRORS_FOLDER, MANIFEST_FOLDER, PARTS_FOLDER, Dataset
from clipfleet.storage.format.parts import Footer, part_path
from clipfleet.validation import problems

_READERS = 16  # threads


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """A shard's record in the manifest; `vectors` and `errors` count its items.

    `cut` counts the vectors of texts that were longer than the model's context length.
    """

    name: str
    vectors: NonNegativeInt
    errors: NonNegativeInt
    part: str  # path in the dataset
    model: str  # ModelCard.identity
    engine_sha256: str
    finished_at: str  # ISO 8601, UTC
    worker: str
    cut: NonNegativeInt = 0  # older records do not say

    def to_json(self) -> str:
        """Return the record's text."""
        return json.dumps(asdict(self), indent=2) + "\n"


_COMMIT = TypeAdapter(Commit)


def record_path(name: str) -> str:
    """Return where the manifest record of a shard is."""
    return f"{MANIFEST_FOLDER}/{name}.json"


def read_record(dataset: Dataset, name: str) -> Commit | None:
    """Return a shard's record, None if it has none.

    Raises:
        DatasetError: It is damaged.
    """
    try:
        text = dataset.fs.read(record_path(name))
    except FileNotFoundError:
        return None
    try:
        return _COMMIT.validate_json(text, strict=True)
    except ValidationError as error:
        raise DatasetError(
            f"{dataset.root}/{record_path(name)} is damaged ({problems(error)}): delete it, and "
            "`clipfleet resume` writes it again from its part"
        ) from error


def read_records(dataset: Dataset, names: Collection[str]) -> Iterator[tuple[str, Commit]]:
    """Yield the records of shards, those that have one, several read at a time.

    An object store answers each after some 20 ms.

    Raises:
        DatasetError: One is damaged.
    """
    if not names:
        return
    with ThreadPoolExecutor(min(_READERS, len(names))) as pool:
        for name, record in zip(names, pool.map(partial(read_record, dataset), names), strict=True):
            if record is not None:
                yield name, record


def record_of(footer: Footer) -> Commit:
    """Return the record of a part, which depends on nothing but its footer."""
    return Commit(
        name=footer.shard,
        vectors=footer.vectors,
        errors=len(footer.failures),
        part=part_path(footer.shard),
        model=footer.model,
        engine_sha256=footer.engine_sha256,
        finished_at=footer.finished_at,
        worker=footer.worker,
        cut=footer.cut,
    )


def record_names(fs: Filesystem) -> set[str]:
    """Return the shards that have a manifest record."""
    return _names(fs, MANIFEST_FOLDER, ".json")


def part_names(fs: Filesystem) -> set[str]:
    """Return the shards that have a part."""
    return _names(fs, PARTS_FOLDER, ".parquet")


def error_names(fs: Filesystem) -> set[str]:
    """Return the shards that have an errors table."""
    return _names(fs, ERRORS_FOLDER, ".parquet")


def _names(fs: Filesystem, folder: str, suffix: str) -> set[str]:
    return {n.removesuffix(suffix) for n in fs.list(folder) if n.endswith(suffix)}
