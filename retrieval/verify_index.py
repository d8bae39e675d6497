"""An index is verified: its files, its ids, and its certificate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipfleet.engine_files import sha256_of
from clipfleet.errors import DatasetError
from clipfleet.reader import Dataset
from clipfleet.retrieval.certificate.certificate import Certificate
from clipfleet.retrieval.certificate.certified import certificate_of
from clipfleet.retrieval.certificate.ids import doubled_ids
from clipfleet.retrieval.certificate.recheck import recheck
from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.index.folder import ITEMS_NAME, VECTORS_NAME, shard_folder
from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.index.shard_builder import read_shard_record
from clipfleet.retrieval.threads import threads_of
from clipfleet.settings import Settings, load_settings

_REMEDY = "build the index again, in another folder"


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexVerification:
    """The result of `verify_index`: `problems` name what is wrong, with the remedy.

    `notes` name what could not be checked.
    """

    index: str
    vectors: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the index is whole: there are no `problems`."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the result for people."""
        state = "is whole" if self.ok else "is not whole"
        return [
            f"index {self.index} {state}: {self.vectors:,} vectors",
            *self.problems,
            *self.notes,
        ]


def verify_index(path: str | Path, *, settings: Settings | None = None) -> IndexVerification:
    """Verify an index: the checksums of its files, its ids, and its certificate.

    Every byte is read. Recall@10 is measured again with other queries than the certificate's, 200
    of each kind, and compared with the certificate.

    Without `settings`, those of `load_settings()` are used.

    Raises:
        UsageError: There is no index at `path`.
        DatasetError: A file cannot be opened as what it is, or the certificate is damaged.
        DependencyError: FAISS is not installed.
        StorageError: The temporary folder is full.
    """
    settings = settings or load_settings()
    load_faiss()  # before its threads are limited
    with threads_of(settings), Index.open(path) as index:
        certificate = certificate_of(index.card)
        # Of damaged files, ids and recall would only repeat the problem.
        problems = [*_wrong_files(index, certificate)] or [*_wrong_ids(index)]
        notes: list[str] = []
        if certificate is None:
            problems.append(
                "it has no certificate: `clipfleet index` with the same folders adds it"
            )
        elif not problems:
            queries = _queries(certificate, settings, notes)
            problems += recheck(index, certificate, queries=queries)
        return IndexVerification(
            index=str(index.path), vectors=len(index), problems=tuple(problems), notes=tuple(notes)
        )


def _wrong_files(index: Index, certificate: Certificate | None) -> Iterator[str]:
    card = index.card
    for shard in card.shards:
        record, folder = (
            read_shard_record(index.path, shard.name),
            shard_folder(index.path, shard.name),
        )
        if record.parts != shard.parts:
            yield f"{folder} has other parts than the index's card: {_REMEDY}"
        for name, expected in (
            (VECTORS_NAME, record.vectors_sha256),
            (ITEMS_NAME, record.items_sha256),
        ):
            yield from _changed(folder / name, expected)
    if card.codes and certificate is not None and certificate.build.codes_sha256:
        yield from _changed(index.path / card.codes, certificate.build.codes_sha256)


def _changed(path: Path, expected: str) -> Iterator[str]:
    if sha256_of(path) != expected:
        yield f"{path} is not as it was written (SHA-256): {_REMEDY}"


def _wrong_ids(index: Index) -> Iterator[str]:
    count, first = doubled_ids(index)
    if count:
        yield (
            f"{count:,} ids are there twice ({', '.join(first)}): `clipfleet verify "
            f"{index.card.dataset}` tells why; then {_REMEDY}"
        )


def _queries(certificate: Certificate, settings: Settings, notes: list[str]) -> Dataset | None:
    """Return the dataset of the certificate's queries, if it is still there."""
    if certificate.queries is None:
        return None
    try:
        return Dataset(certificate.queries, settings=settings)
    except DatasetError as error:
        notes.append(f"the recall of its queries was not measured again: {error}")
        return None
