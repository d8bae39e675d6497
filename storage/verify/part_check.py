"""The check of one part: its bytes, its footer and its rows."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipfleet.error_codes import TOMBSTONES
from clipfleet.errors import DatasetError
from clipfleet.storage.filesystem.local import is_folder
from clipfleet.storage.format.checksums import file_sha256
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.footer import Footer
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_groups,
    stored_vectors,
)
from clipfleet.storage.format.parts import (
    ITEMS_PREFIX,
    NORM_TOLERANCE,
    check_payload,
    footer_of,
    norms,
    part_path,
    part_remedy,
    part_schema,
    value_column,
)
from clipfleet.storage.plan.moves import Moves, read_moves
from clipfleet.storage.plan.retries import job_of
from clipfleet.storage.verify import verification as kinds
from clipfleet.storage.verify.id_counts import IdCounts
from clipfleet.storage.verify.record_check import RecordChecker
from clipfleet.storage.verify.verification import Findings, Verification

# The fields of a model card that all engines of one model share.
_SHARED = ("architecture", "tower", "precision", "checkpoint_sha256")
_SCALE_TOLERANCE = 1e-3  # between logit scales, which people may have written


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRows:
    """The ids of a shard's planned items, and their uris or texts, in the plan's order."""

    ids: list[str]
    values: list[str]


class PartChecker:
    """Checks parts one at a time; memory holds the file of one part."""

    def __init__(
        self, dataset: Dataset, ids: IdCounts, result: Verification, findings: Findings
    ) -> None:
        self._dataset = dataset
        self._ids = ids
        self._result = result
        self._findings = findings
        self._records = RecordChecker(dataset, ids, result, findings)
        self._schema = part_schema(dataset.info)
        self._card, _ = _shared(dataset.info.card.to_json())
        self._moves = _readable_moves(dataset)
        self._foreign: dict[str, tuple[str, str]] = {}  # parts of other models → problem, example

    def check(self, name: str, *, finished: bool, planned: PlannedRows | None) -> bool:
        """Read a whole part, and compare it with its record, its errors table and its plan.

        `finished`: it has a record. `planned` is None for single items, and for a damaged plan.
        Return whether its rows are the planned items in order: these are not counted as written.
        """
        self._result.parts += 1
        path = part_path(name)
        try:
            data = self._dataset.fs.read(path)
            parquet, footer = _open(io.BytesIO(data), name)
            self._check_footer(name, footer)
            has_columns = self._check_columns(name, parquet)
            if not (finished and self._records.check_record(name, footer, file_sha256(data))):
                check_payload(data, path=path)  # no record says that these bytes were committed
            as_planned = has_columns and self._check_rows(name, parquet, footer, planned)
        except (DatasetError, FileNotFoundError) as error:
            self._add_damaged(name, error)
            return False
        failed = [failure.item.id for failure in footer.failures]
        standing = self._ids.standing(failed, int(job_of(name) or 0))
        self._ids.write(standing, single=name.startswith(ITEMS_PREFIX))
        self._result.errors += len(standing)
        self._result.add_counts(footer)
        tombstones = {f.item.id for f in footer.failures if f.error in TOMBSTONES}
        self._result.removed += sum(id_ in tombstones for id_ in standing)
        if finished:
            self._records.check_errors(name, footer)
        else:
            self._add_unfinished(name)
        return as_planned

    def check_quick(
        self, name: str, *, finished: bool, size: int | None, has_errors: bool | None
    ) -> None:
        """Compare a part's footer with its record and with the size of its shard; read no row.

        `has_errors`: whether it has an errors table; None: a retry may have emptied that table.
        """
        self._result.parts += 1
        try:
            with self._dataset.fs.open(part_path(name)) as file:
                parquet, footer = _open(file, name)
                self._check_columns(name, parquet)
            if finished:
                self._records.check_record(name, footer, None)
            self._check_footer(name, footer)
        except (DatasetError, FileNotFoundError) as error:
            self._add_damaged(name, error)
            return
        count = footer.vectors + len(footer.failures)
        if size not in (None, count):
            example = f"{name} ({count} items, planned {size})"
            self._findings.add_damaged(kinds.NOT_PLANNED_SO, name, example)
        self._result.vectors += footer.vectors
        self._result.errors += len(footer.failures)
        self._result.add_counts(footer)
        if not finished:
            self._add_unfinished(name)
        elif has_errors not in (None, bool(footer.failures)):
            self._findings.add_stale(kinds.ERRORS, name)

    def finish(self) -> None:
        """Add the problems that need all parts.

        If all parts are of another model, then dataset.json is foreign: nothing is to be moved.
        """
        if self._foreign and len(self._foreign) == self._result.parts:
            for name in self._foreign:
                self._findings.add(kinds.OF_ALL_PARTS, name)
        else:
            for name, (problem, example) in self._foreign.items():
                self._findings.add_damaged(problem, name, example)

    def _check_footer(self, name: str, footer: Footer) -> None:
        if footer.shard != name:
            example = f"{name} (is {footer.shard})"
            self._findings.add_damaged(kinds.OTHER_NAME, name, example)
        if footer.model != self._dataset.info.model:
            self._foreign[name] = (kinds.OTHER_MODEL, f"{name} ({footer.model})")
        elif footer.card:
            card, scale = _shared(footer.card)
            if card != self._card:
                self._foreign[name] = (kinds.OTHER_MODEL, f"{name} (its model card differs)")
            elif not abs(scale - self._dataset.info.card.logit_scale) <= _SCALE_TOLERANCE:
                self._findings.add(kinds.LOGIT_SCALE, f"{name} ({scale:g})")
        if footer.rules != self._dataset.info.rules:
            example = f"{name} ({footer.rules.to_stored()})"
            self._foreign.setdefault(name, (kinds.OTHER_RULES, example))
        if footer.decode != self._dataset.info.decode:
            self._foreign.setdefault(name, (kinds.OTHER_DECODE, f"{name} ({footer.decode!r})"))

    def _check_columns(self, name: str, parquet: pq.ParquetFile) -> bool:
        if parquet.schema_arrow.equals(self._schema):
            return True
        self._foreign[name] = (kinds.OTHER_COLUMNS, name)
        return False

    def _check_rows(
        self, name: str, parquet: pq.ParquetFile, footer: Footer, planned: PlannedRows | None
    ) -> bool:
        """Return whether the rows are the planned items in order; count others as written."""
        column, dim = value_column(self._dataset.info.tower), self._dataset.info.dim
        ids: list[str] = []
        values: list[str] = []
        try:
            for rows in read_row_groups(parquet, self._schema.names):
                vectors = stored_vectors(rows, dim)
                here = rows["id"].to_pylist()
                self._check_vectors(name, here, vectors)
                ids += here
                values += rows[column].to_pylist() if planned is not None else ()
        except PARQUET_ERRORS as error:
            raise parquet_error(error, part_path(name), remedy=part_remedy(name)) from error
        if planned is not None and self._moves.moves:  # a part keeps the uris of its time
            values = [self._moves.uri(value, job_of(name)) for value in values]
        if planned == PlannedRows(ids=ids, values=values) and not footer.failures:
            return True
        self._ids.write(ids, single=name.startswith(ITEMS_PREFIX))
        if planned is not None:
            # A failure may have newer content: of a part that was made again after a replacement.
            known = dict(zip(planned.ids, planned.values, strict=True))
            ids += [failure.item.id for failure in footer.failures]
            values += [known.get(failure.item.id, "") for failure in footer.failures]
            self._compare_with_plan(name, PlannedRows(ids=ids, values=values), planned)
        return False

    def _check_vectors(self, name: str, ids: list[str], vectors: NDArray[Any]) -> None:
        self._result.vectors += len(ids)
        lengths = norms(vectors)
        for row in np.flatnonzero(~(np.abs(lengths - 1) <= NORM_TOLERANCE)):  # NaN is bad too
            self._result.bad_vectors += 1
            example = f"{ids[row]!r} (norm {lengths[row]:g}, in {name})"
            self._findings.add_damaged(kinds.VECTORS, name, example)

    def _compare_with_plan(self, name: str, found: PlannedRows, planned: PlannedRows) -> None:
        extra = _counted(found)
        extra.subtract(_counted(planned))
        different = sorted({id_ for (id_, _), count in extra.items() if count})
        if different:
            shown = ", ".join(map(repr, different[: kinds.SHOWN]))
            more = ", …" if len(different) > kinds.SHOWN else ""
            self._findings.add_damaged(kinds.NOT_PLANNED_SO, name, f"{name} ({shown}{more})")

    def _add_damaged(self, name: str, error: Exception) -> None:
        if is_folder(error):
            self._findings.add(kinds.FOREIGN, part_path(name))
        else:
            self._findings.add_damaged(kinds.DAMAGED, name, f"{name} ({error})")

    def _add_unfinished(self, name: str) -> None:
        self._result.unfinished += 1
        self._findings.add(kinds.UNFINISHED, name)


def _readable_moves(dataset: Dataset) -> Moves:
    try:
        return read_moves(dataset)
    except DatasetError:  # then no plan of images can be read, which is a problem
        return Moves()


def _open(file: Any, name: str) -> tuple[pq.ParquetFile, Footer]:
    path = part_path(name)
    try:
        parquet = open_parquet(file)
        return parquet, footer_of(parquet.metadata, path=path)
    except PARQUET_ERRORS as error:
        raise parquet_error(error, path, remedy=part_remedy(name)) from error


def _counted(rows: PlannedRows) -> Counter[tuple[str, str]]:
    return Counter(zip(rows.ids, rows.values, strict=True))


def _shared(card: str) -> tuple[list[Any], float]:
    """Return what the cards of all engines of one model have in common, and the logit scale."""
    try:
        fields = json.loads(card)
        return [fields[name] for name in _SHARED], float(fields["logit_scale"])
    except (LookupError, TypeError, ValueError, RecursionError):
        return [], math.nan
