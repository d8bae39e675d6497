"""A shard's record in the manifest: the proof that the shard is done."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from clipfleet.errors import DatasetError
from clipfleet.storage.format.dataset import MANIFEST_FOLDER, Dataset
from clipfleet.storage.format.footer import Footer
from clipfleet.storage.format.parts import part_path
from clipfleet.storage.format.stage_seconds import StageSeconds
from clipfleet.validation import problems


class VectorCounts(NamedTuple):
    """How many vectors have what, as in the part's footer."""

    cut: int = 0
    transparent: int = 0
    without_end: int = 0
    copied: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """A shard's record in the manifest; `vectors` and `errors` count its items.

    `cut`, `transparent`, `without_end` and `copied` count vectors, as in the part's footer.
    """

    name: str
    vectors: NonNegativeInt
    errors: NonNegativeInt
    part: str  # path in the dataset
    model: str  # ModelCard.identity
    engine_sha256: str
    finished_at: str  # ISO 8601, UTC
    worker: str
    cut: NonNegativeInt = 0  # older records lack it
    transparent: NonNegativeInt = 0
    without_end: NonNegativeInt = 0
    copied: NonNegativeInt = 0
    replaced: tuple[str, ...] = ()  # parts that lost vectors to this one; older records lack it
    seconds: StageSeconds | None = None  # older records, and those of single items, lack it
    sha256: str | None = None  # of the part's file; older records lack it

    @property
    def counts(self) -> VectorCounts:
        """What the record counts of the vectors."""
        return VectorCounts(self.cut, self.transparent, self.without_end, self.copied)

    def to_json(self) -> str:
        """Return the record's text, without what is empty and only some records have."""
        fields = asdict(self)
        for name in ("transparent", "without_end", "copied", "replaced", "seconds", "sha256"):
            if not fields[name]:
                del fields[name]
        return json.dumps(fields, indent=2) + "\n"


_COMMIT = TypeAdapter(Commit)


def has_empty_record(dataset: Dataset, name: str) -> bool:
    """Return whether a record has no item: of a withdrawn part, or a part of earlier versions."""
    try:
        record = read_record(dataset, name)
    except DatasetError:
        return False
    return record is not None and record.vectors == record.errors == 0


def record_path(name: str) -> str:
    """Return the path of a shard's manifest record in its dataset."""
    return f"{MANIFEST_FOLDER}/{name}.json"


def read_record(dataset: Dataset, name: str) -> Commit | None:
    """Return a shard's record; None if it has none.

    Raises:
        DatasetError: The record is damaged.
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


def record_of(footer: Footer, sha256: str | None) -> Commit:
    """Return the record of a part: its footer, and the SHA-256 of its file."""
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
        transparent=footer.transparent,
        without_end=footer.without_end,
        copied=footer.copied,
        replaced=footer.replaced,
        seconds=footer.seconds,
        sha256=sha256,
    )
