"""The check that a dataset is whole: every item once, every norm 1, one model."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import DatasetError
from clipfleet.storage.commit.commit import read_record, record_of
from clipfleet.storage.filesystem.locations import STORE_TIMEOUT_S
from clipfleet.storage.format.dataset import Dataset, error_names, part_names, record_names
from clipfleet.storage.format.errors_table import read_errors
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_groups,
)
from clipfleet.storage.format.parts import (
    ITEMS_PREFIX,
    NORM_TOLERANCE,
    Failure,
    Footer,
    norms,
    part_path,
    part_remedy,
    part_schema,
    read_footer,
)
from clipfleet.storage.plan.reader import jobs, read_job_rows
from clipfleet.storage.plan.retries import job_of, planned_retries, superseded_ids
from clipfleet.storage.verify import id_counts

SHOWN = 5  # examples that a problem names

# The kinds of problems, with their remedies.
_DAMAGED = "parts are damaged or foreign ({})"
_OTHER_MODEL = "parts hold another model's vectors ({})"
_OTHER_NAME = "parts have another shard's name (give them their names back)"
_OTHER_COLUMNS = "parts have other columns than the dataset's ({})"
_UNFINISHED = "parts are unfinished, without a manifest record (`clipfleet resume` finishes them)"
_NO_PART = "manifest records have no part ({})"
_RECORD = "manifest records are damaged or differ from their parts (delete them, and resume)"
_ERRORS = "errors tables differ from their parts (delete their manifest records, and resume)"
_VECTORS = "vectors are not finite or not of norm 1"
_MISSING = "planned ids are neither in a part nor in an errors table"
_DOUBLED = "ids are in parts and errors tables twice (if replaced, `clipfleet resume` mends them)"
_UNPLANNED = "ids in the parts of shards are in no plan"
_PLANNED_TWICE = "ids are planned more than once"

# The remedies for parts of a plan's shards, and for parts of single items, which no plan has.
_PART_REMEDIES = {
    _NO_PART: (
        "`clipfleet resume` embeds these shards again",
        "queue their items again: the next part of single items withdraws these records",
    )
}
_PART_REMEDY = ("delete them and resume", "move them away and queue their items again")


@dataclass(kw_only=True, slots=True)
class Verification:
    """The result of `verify_dataset`; `missing`, `doubled` and `unplanned` count ids.

    `cut` counts the vectors of texts that were longer than the model's context length.
    """

    dataset: str
    model: str  # ModelCard.identity
    planned: int = 0  # ids
    parts: int = 0
    vectors: int = 0
    errors: int = 0
    cut: int = 0
    missing: int = 0
    doubled: int = 0
    unplanned: int = 0
    unfinished: int = 0  # parts without a record
    bad_vectors: int = 0  # not finite, or not of norm 1
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the dataset is whole: there are no `problems`."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the result as lines of text: the counts, then the problems, if there are any."""
        counts = (
            f"{self.planned} items planned; {self.vectors} vectors and {self.errors} errors in "
            f"{self.parts} parts of model {self.model[:12]}"
        )
        if self.cut:
            counts += f"; {self.cut} vectors are of texts that were cut to the model's length"
        verdict = "whole: every item once, every norm 1, one model"
        return [counts, *(self.problems or [verdict])]


def verify_dataset(
    dataset: str | Dataset, *, store_timeout_s: float = STORE_TIMEOUT_S
) -> Verification:
    """Read a whole dataset, given as a location or opened, and return its problems.

    Memory stays flat: ids are counted on disk, vectors are read one row group at a time.

    Raises:
        DatasetError: There is no dataset, or its plan cannot be read.
    """
    if isinstance(dataset, str):
        dataset = Dataset.open(dataset, store_timeout_s=store_timeout_s)
    with closing(id_counts.IdCounts()) as ids:
        for job in jobs(dataset):
            if not job.retry:  # the items of a retry are planned by another job, or single items
                for planned, _ in read_job_rows(dataset, job):
                    ids.plan(planned)
        return _Verifier(dataset, ids).verify()


class _Verifier:
    def __init__(self, dataset: Dataset, ids: id_counts.IdCounts) -> None:
        self._dataset = dataset
        self._ids = ids
        self._result = Verification(dataset=dataset.root, model=dataset.info.model)
        self._found: dict[str, tuple[int, list[str]]] = {}  # problem → count, examples

    def verify(self) -> Verification:
        parts = part_names(self._dataset.fs)
        records = record_names(self._dataset.fs)
        for job, retried in planned_retries(self._dataset, parts):
            self._ids.retry(retried, int(job.id))
        for name in sorted(parts):
            self._check_part(name, finished=name in records)
        for name in sorted(records - parts):
            # An existing part is newer than the list.
            if not self._dataset.fs.exists(part_path(name)) and not self._is_empty(name):
                self._add_part(_NO_PART, name)
        for name in sorted(error_names(self._dataset.fs) - parts):
            self._add(_ERRORS, name)
        self._check_ids()
        self._result.problems = [
            f"{count} {problem}: {', '.join(examples)}{', …' if count > len(examples) else ''}"
            for problem, (count, examples) in self._found.items()
        ]
        return self._result

    def _check_part(self, name: str, *, finished: bool) -> None:
        self._result.parts += 1
        try:
            with self._dataset.fs.open(part_path(name)) as file:
                footer = read_footer(file, path=part_path(name))
                self._check_footer(name, footer)
                self._check_rows(name, file)
        except (DatasetError, FileNotFoundError) as error:
            self._add_part(_DAMAGED, name, detail=f" ({error})")
            return
        failed = [failure.item.id for failure in footer.failures]
        standing = self._ids.standing(failed, int(job_of(name) or 0))
        self._ids.write(standing, single=name.startswith(ITEMS_PREFIX))
        self._result.errors += len(standing)
        self._result.cut += footer.cut
        if finished:
            self._check_record(name, footer)
        else:
            self._result.unfinished += 1
            self._add(_UNFINISHED, name)

    def _check_footer(self, name: str, footer: Footer) -> None:
        if footer.shard != name:
            self._add(_OTHER_NAME, f"{name} (is {footer.shard})")
        if footer.model != self._dataset.info.model:
            self._add_part(_OTHER_MODEL, name, detail=f" ({footer.model})")

    def _check_rows(self, name: str, file: BinaryIO) -> None:
        info = self._dataset.info
        try:
            parquet = open_parquet(file)
            if not parquet.schema_arrow.equals(part_schema(info)):
                self._add_part(_OTHER_COLUMNS, name)
                return
            for rows in read_row_groups(parquet, ["id", "embedding"]):
                flat = rows["embedding"].combine_chunks().flatten()
                vectors = flat.to_numpy(zero_copy_only=False).reshape(rows.num_rows, info.dim)
                self._check_vectors(name, rows["id"].to_pylist(), vectors)
        except PARQUET_ERRORS as error:
            raise parquet_error(error, part_path(name), remedy=part_remedy(name)) from error

    def _check_vectors(self, name: str, ids: list[str], vectors: NDArray[Any]) -> None:
        self._ids.write(ids, single=name.startswith(ITEMS_PREFIX))
        self._result.vectors += len(ids)
        lengths = norms(vectors)
        for row in np.flatnonzero(~(np.abs(lengths - 1) <= NORM_TOLERANCE)):  # NaN is bad too
            self._result.bad_vectors += 1
            self._add(_VECTORS, f"{ids[row]!r} (norm {lengths[row]:g}, in {name})")

    def _check_record(self, name: str, footer: Footer) -> None:
        try:
            if read_record(self._dataset, name) != record_of(footer):
                self._add(_RECORD, name)
        except DatasetError:
            self._add(_RECORD, name)
        try:
            if not self._is_table_of(footer, read_errors(self._dataset, name)):
                self._add(_ERRORS, name)
        except DatasetError:
            self._add(_ERRORS, name)

    def _is_empty(self, name: str) -> bool:
        """Return whether a record is that of a part without items, which earlier versions wrote."""
        try:
            record = read_record(self._dataset, name) if name.startswith(ITEMS_PREFIX) else None
        except DatasetError:
            return False
        return record is not None and record.vectors == record.errors == 0

    def _is_table_of(self, footer: Footer, table: Iterable[Failure]) -> bool:
        """Return whether an errors table has a part's failures; superseded ones may be missing."""
        rows = [(failure.item.id, failure.error) for failure in table]
        failed = [(failure.item.id, failure.error) for failure in footer.failures]
        if rows == failed:
            return True
        gone = {id_ for id_, _ in failed} - {id_ for id_, _ in rows}
        if rows != [row for row in failed if row[0] not in gone]:
            return False
        job = job_of(footer.shard)
        standing = set(self._ids.standing(gone, int(job or 0)))
        # The files decide: a retry's part may be newer than the list of parts.
        return superseded_ids(self._dataset, standing, after=job) == standing

    def _check_ids(self) -> None:
        ids, result = self._ids, self._result
        result.planned = ids.count(id_counts.PLANNED)
        result.missing = self._add_ids(_MISSING, id_counts.MISSING)
        result.doubled = self._add_ids(_DOUBLED, id_counts.DOUBLED)
        result.unplanned = self._add_ids(_UNPLANNED, id_counts.UNPLANNED)
        self._add_ids(_PLANNED_TWICE, id_counts.PLANNED_TWICE)

    def _add_ids(self, problem: str, condition: str) -> int:
        count = self._ids.count(condition)
        if count:
            examples = [repr(id_) for id_ in self._ids.first(condition, SHOWN)]
            self._found[problem] = (count, examples)
        return count

    def _add_part(self, problem: str, name: str, *, detail: str = "") -> None:
        """Add a problem of a part, with the remedy for parts of its kind."""
        shards, items = _PART_REMEDIES.get(problem, _PART_REMEDY)
        remedy = items if name.startswith(ITEMS_PREFIX) else shards
        self._add(problem.format(remedy), name + detail)

    def _add(self, problem: str, example: str) -> None:
        count, examples = self._found.get(problem, (0, []))
        self._found[problem] = (count + 1, [*examples, example][:SHOWN])
