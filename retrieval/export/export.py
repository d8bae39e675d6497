"""`export`: all vectors of a dataset in one file or folder, which is read back before it counts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from clipfleet.errors import StorageError, UsageError
from clipfleet.reader import Dataset
from clipfleet.retrieval.export.copy_file import CopyFile
from clipfleet.retrieval.export.feature_lines import FeatureLines
from clipfleet.retrieval.export.fvecs_folder import FvecsFolder
from clipfleet.retrieval.export.lance_database import LanceDatabase
from clipfleet.retrieval.export.numpy_folder import NumpyFolder
from clipfleet.retrieval.export.parquet_folder import ParquetFolder
from clipfleet.retrieval.export.points import Points
from clipfleet.retrieval.export.rows import IdDigest, Rows, check_proof
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.filesystem.locations import local_path

Target = Literal["fvecs", "jsonl", "lance", "npy", "parquet", "pgvector", "qdrant"]
TARGETS: tuple[Target, ...] = get_args(Target)


class Format(Protocol):
    """How the rows of a dataset are written, and how they are read back."""

    def write(self, path: Path, rows: Rows) -> None:
        """Write all rows into a new file or folder."""
        ...

    def read_ids(self, path: Path, rows: Rows) -> Iterator[str]:
        """Read everything again, and yield the ids in the dataset's order.

        Raises:
            ValueError: A row is not as `rows` would have it.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What was exported: `rows` were in the dataset, were written, and were read back."""

    dataset: str
    out: str
    to: Target
    rows: int
    ids_sha256: str  # of the ids in their order

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        return [f"{self.out} has all {self.rows} vectors of {self.dataset}: read back and counted"]


def export(
    dataset: str | Path,
    out: str | Path,
    *,
    to: Target,
    int_ids: bool = False,
    sort_by_id: bool = False,
    settings: Settings | None = None,
) -> Export:
    """Write all vectors of a dataset into a new file or folder for another program.

    The file appears whole, after it was read back: it has every id once, in the order of
    `Dataset.ids`, and vectors of D numbers. Memory holds some thousand rows, of `parquet` with
    `sort_by_id` also all ids.

    Args:
        dataset: The dataset's folder, or `s3://bucket/prefix`.
        out: The new file, or the new folder (`npy`, `fvecs`, `lance`, `parquet`).
        to: `npy`: vectors.npy (n, D), float16 or float32, and ids.jsonl. `fvecs`: vectors.fvecs,
            float32, and ids.jsonl. `jsonl`: a line `{"image_id" or "text_id", "feature"}` a vector,
            as Chinese-CLIP's scripts read it. `pgvector`: PostgreSQL's COPY text with id, uri or
            text, and vector. `qdrant`: a point a line, its id a UUID of ours. `lance`: a LanceDB
            database with the table `vectors`. `parquet`: files of 256 MB.
        int_ids: Of `jsonl`: write the ids as whole numbers.
        sort_by_id: Of `parquet`: sort the rows by id.
        settings: Without them, those of `load_settings()`.

    Raises:
        UsageError: `out` exists or is in an object store, an option does not go with `to`, or an id
            is no whole number.
        DatasetError: There is no dataset, a part is damaged, or what was read back is not whole.
        DependencyError: LanceDB is not installed.
        StorageError: The disk refused a write.
    """
    target = Path(local_path(str(out)))
    format_ = _format(to, int_ids=int_ids, sort_by_id=sort_by_id)
    if os.path.lexists(target):
        raise UsageError(f"{target} exists: name a new file or folder, or remove it")
    rows = Rows(Dataset(dataset, settings=settings or load_settings()))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror}") from error
    try:
        made = folder / target.name
        format_.write(made, rows)
        found = IdDigest()
        try:
            found.update(format_.read_ids(made, rows))
        except ValueError as error:
            raise StorageError(f"{target} was written, and cannot be read back: {error}") from error
        check_proof(rows, found, target)
        _sync(made)
        if made.is_dir():
            os.rename(made, target)
        else:
            os.link(made, target)  # unlike a rename, it refuses a file that exists by now
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Export(
        dataset=rows.dataset.path,
        out=str(target),
        to=to,
        rows=rows.count,
        ids_sha256=found.hexdigest(),
    )


def _format(to: Target, *, int_ids: bool, sort_by_id: bool) -> Format:
    if to not in TARGETS:
        raise UsageError(f"no export to {to!r}: expected one of {', '.join(TARGETS)}")
    for wanted, name, only in ((int_ids, "--int-ids", "jsonl"), (sort_by_id, "--sort", "parquet")):
        if wanted and to != only:
            raise UsageError(f"{name} is for --to {only}, not {to}: leave it out")
    formats: dict[Target, Format] = {
        "fvecs": FvecsFolder(),
        "jsonl": FeatureLines(int_ids=int_ids),
        "lance": LanceDatabase(),
        "npy": NumpyFolder(),
        "parquet": ParquetFolder(sort_by_id=sort_by_id),
        "pgvector": CopyFile(),
        "qdrant": Points(),
    }
    return formats[to]


def _sync(made: Path) -> None:
    """Write a file, or the files of a folder, to the disk."""
    for path in [made, *made.rglob("*")] if made.is_dir() else [made]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
