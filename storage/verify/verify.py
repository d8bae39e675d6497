"""The proof that a dataset is whole: every item once, every vector sound, one model."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import DatasetError
from clipfleet.storage.filesystem.base import STORE_TIMEOUT_S
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_groups,
)
from clipfleet.storage.format.parts import (
    ITEMS_PREFIX,
    NORM_TOLERANCE,
    Footer,
    errors_path,
    errors_schema,
    norms,
    part_path,
    part_schema,
    read_footer,
    way_out,
)
from clipfleet.storage.format.records import (
    error_names,
    part_names,
    read_record,
    record_names,
    record_of,
)
from clipfleet.storage.jobs.plan_reader import jobs, read_job_rows
from clipfleet.storage.jobs.retries import job_of, planned_retries, superseded
from clipfleet.storage.verify import id_counts as tally

SHOWN = 5  # examples that a problem names

# The kinds of problem, each with the way out.
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
_DOUBLED = "ids are in parts and errors tables more than once"
_UNPLANNED = "ids in the parts of shards are in no plan"
_PLANNED_TWICE = "ids are planned more than once"

# The ways out for parts: of a plan's shards, and of items that came singly, which no plan has.
_WAYS_OUT = {
    _NO_PART: (
        "`clipfleet resume` embeds these shards again",
        "queue their items again: the next part of single items withdraws these records",
    )
}
_WAY_OUT = ("delete them and resume", "move them away and queue their items again")


@dataclass(kw_only=True, slots=True)
class Proof:
    """What `prove` found; `missing`, `doubled` and `unplanned` count ids.

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
        """Return the proof in JSON's types."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the proof for people: what was counted, then the problems, or that it holds."""
        counts = (
            f"{self.planned} items planned; {self.vectors} vectors and {self.errors} errors in "
            f"{self.parts} parts of model {self.model[:12]}"
        )
        if self.cut:
            counts += f"; {self.cut} vectors are of texts that were cut to the model's length"
        verdict = "whole: every item once, every norm 1, one model"
        return [counts, *(self.problems or [verdict])]


def prove(root: str, *, store_timeout_s: float = STORE_TIMEOUT_S) -> Proof:
    """Read a whole dataset, and return what is wrong with it, if anything.

    Memory stays flat: ids are counted on disk, vectors read a row group at a time.

    Raises:
        DatasetError: There is no dataset at `root`, or a plan of it cannot be read.
    """
    return prove_dataset(Dataset.open(root, store_timeout_s=store_timeout_s))


def prove_dataset(dataset: Dataset) -> Proof:
    """Return what is wrong with a dataset, as `prove` does."""
    with closing(tally.Tally()) as ids:
        for job in jobs(dataset):
            if not job.retry:  # its items are planned, or came singly
                for planned, _ in read_job_rows(dataset, job):
                    ids.plan(planned)
        return _Prover(dataset, ids).prove()


class _Prover:
    def __init__(self, dataset: Dataset, ids: tally.Tally) -> None:
        self._dataset = dataset
        self._ids = ids
        self._proof = Proof(dataset=dataset.root, model=dataset.info.model)
        self._found: dict[str, tuple[int, list[str]]] = {}  # problem → count, examples

    def prove(self) -> Proof:
        parts = part_names(self._dataset.fs)
        records = record_names(self._dataset.fs)
        for job, retried in planned_retries(self._dataset, parts):
            self._ids.retry(retried, int(job.id))
        for name in sorted(parts):
            self._prove_part(name, finished=name in records)
        for name in sorted(records - parts):
            # If its part is there, it is newer than the list.
            if not self._dataset.fs.exists(part_path(name)) and not self._is_empty(name):
                self._add_part(_NO_PART, name)
        for name in sorted(error_names(self._dataset.fs) - parts):
            self._add(_ERRORS, name)
        self._prove_ids()
        self._proof.problems = [
            f"{count} {problem}: {', '.join(examples)}{', …' if count > len(examples) else ''}"
            for problem, (count, examples) in self._found.items()
        ]
        return self._proof

    def _prove_part(self, name: str, *, finished: bool) -> None:
        self._proof.parts += 1
        try:
            with self._dataset.fs.open(part_path(name)) as file:
                footer = read_footer(file, path=part_path(name))
                self._prove_footer(name, footer)
                self._prove_rows(name, file)
        except (DatasetError, FileNotFoundError) as error:
            self._add_part(_DAMAGED, name, told=f" ({error})")
            return
        failed = [failure.item.id for failure in footer.failures]
        standing = self._ids.standing(failed, int(job_of(name) or 0))
        self._ids.write(standing, arrived=name.startswith(ITEMS_PREFIX))
        self._proof.errors += len(standing)
        self._proof.cut += footer.cut
        if finished:
            self._prove_record(name, footer)
        else:
            self._proof.unfinished += 1
            self._add(_UNFINISHED, name)

    def _prove_footer(self, name: str, footer: Footer) -> None:
        if footer.shard != name:
            self._add(_OTHER_NAME, f"{name} (is {footer.shard})")
        if footer.model != self._dataset.info.model:
            self._add_part(_OTHER_MODEL, name, told=f" ({footer.model})")

    def _prove_rows(self, name: str, file: BinaryIO) -> None:
        info = self._dataset.info
        try:
            parquet = open_parquet(file)
            if not parquet.schema_arrow.equals(part_schema(info)):
                self._add_part(_OTHER_COLUMNS, name)
                return
            for rows in read_row_groups(parquet, ["id", "embedding"]):
                flat = rows["embedding"].combine_chunks().flatten()
                vectors = flat.to_numpy(zero_copy_only=False).reshape(rows.num_rows, info.dim)
                self._prove_vectors(name, rows["id"].to_pylist(), vectors)
        except PARQUET_ERRORS as error:
            raise parquet_error(error, part_path(name), remedy=way_out(name)) from error

    def _prove_vectors(self, name: str, ids: list[str], vectors: NDArray[Any]) -> None:
        self._ids.write(ids, arrived=name.startswith(ITEMS_PREFIX))
        self._proof.vectors += len(ids)
        lengths = norms(vectors)
        for row in np.flatnonzero(~(np.abs(lengths - 1) <= NORM_TOLERANCE)):  # NaN is bad too
            self._proof.bad_vectors += 1
            self._add(_VECTORS, f"{ids[row]!r} (norm {lengths[row]:g}, in {name})")

    def _prove_record(self, name: str, footer: Footer) -> None:
        try:
            if read_record(self._dataset, name) != record_of(footer):
                self._add(_RECORD, name)
        except DatasetError:
            self._add(_RECORD, name)
        try:
            if not self._is_table_of(footer, self._read_errors(name)):
                self._add(_ERRORS, name)
        except DatasetError:
            self._add(_ERRORS, name)

    def _is_empty(self, name: str) -> bool:
        """Return whether a record is of a part without items, which earlier versions wrote."""
        try:
            record = read_record(self._dataset, name) if name.startswith(ITEMS_PREFIX) else None
        except DatasetError:
            return False
        return record is not None and record.vectors == record.errors == 0

    def _is_table_of(self, footer: Footer, told: list[tuple[str, str]]) -> bool:
        """Return whether an errors table has a part's failures; superseded ones may be gone."""
        failed = [(failure.item.id, failure.error) for failure in footer.failures]
        if told == failed:
            return True
        gone = {id_ for id_, _ in failed} - {id_ for id_, _ in told}
        if told != [row for row in failed if row[0] not in gone]:
            return False
        job = job_of(footer.shard)
        standing = set(self._ids.standing(gone, int(job or 0)))
        # By the files too: a retry's part may be newer than the list of parts.
        return superseded(self._dataset, standing, after=job) == standing

    def _read_errors(self, name: str) -> list[tuple[str, str]]:
        """Return id and error of each row of an errors table; none if there is no table."""
        path = errors_path(name)
        try:
            with self._dataset.fs.open(path) as file:
                names = errors_schema(self._dataset.info.tower).names
                groups = [
                    group.select(names) for group in read_row_groups(open_parquet(file), names)
                ]
        except FileNotFoundError:
            return []
        except (*PARQUET_ERRORS, KeyError) as error:  # KeyError: a column is missing
            raise parquet_error(error, path, remedy=way_out(name)) from error
        return [(row["id"], row["error"]) for group in groups for row in group.to_pylist()]

    def _prove_ids(self) -> None:
        ids, proof = self._ids, self._proof
        proof.planned = ids.count(tally.PLANNED)
        proof.missing = self._add_ids(_MISSING, tally.MISSING)
        proof.doubled = self._add_ids(_DOUBLED, tally.DOUBLED)
        proof.unplanned = self._add_ids(_UNPLANNED, tally.UNPLANNED)
        self._add_ids(_PLANNED_TWICE, tally.PLANNED_TWICE)

    def _add_ids(self, problem: str, condition: str) -> int:
        count = self._ids.count(condition)
        if count:
            examples = [repr(id_) for id_ in self._ids.first(condition, SHOWN)]
            self._found[problem] = (count, examples)
        return count

    def _add_part(self, problem: str, name: str, *, told: str = "") -> None:
        """Add a problem of a part, with the way out for parts of its kind."""
        shards, items = _WAYS_OUT.get(problem, _WAY_OUT)
        way = items if name.startswith(ITEMS_PREFIX) else shards
        self._add(problem.format(way), name + told)

    def _add(self, problem: str, example: str) -> None:
        count, examples = self._found.get(problem, (0, []))
        self._found[problem] = (count + 1, [*examples, example][:SHOWN])
