"""The check of a part's record and of its errors table: both follow from the part's file."""

from __future__ import annotations

from dataclasses import replace

from clipfleet.errors import DatasetError
from clipfleet.storage.commit.record import read_record, record_of, record_path
from clipfleet.storage.filesystem.local import is_folder
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.errors_table import errors_path, read_errors
from clipfleet.storage.format.footer import Footer
from clipfleet.storage.format.results import Failure
from clipfleet.storage.plan.retries import job_of, superseded_ids
from clipfleet.storage.verify import verification as kinds
from clipfleet.storage.verify.id_counts import IdCounts
from clipfleet.storage.verify.verification import Findings, Verification


class RecordChecker:
    """Compares records and errors tables with their parts."""

    def __init__(
        self, dataset: Dataset, ids: IdCounts, result: Verification, findings: Findings
    ) -> None:
        self._dataset = dataset
        self._ids = ids
        self._result = result
        self._findings = findings

    def check_record(self, name: str, footer: Footer, sha256: str | None) -> bool:
        """Return whether the record says that the part's file was committed as it is.

        `sha256` is that of the file, None in a quick verification. A record of an earlier version
        has none, and says nothing.
        """
        try:
            record = read_record(self._dataset, name)
        except DatasetError as error:
            self._add_stale(kinds.RECORD, name, error)
            return False
        if record is None:  # it was deleted just now
            self._findings.add_stale(kinds.RECORD, name)
            return False
        if record.sha256 is None and footer.payload_sha256 is None:
            self._result.without_checksum += 1
            sha256 = None
        elif sha256 is None:
            sha256 = record.sha256
        expected = record_of(footer, sha256)
        if record == expected:
            return sha256 is not None
        if record.sha256 is not None and replace(record, sha256=sha256) == expected:
            self._findings.add_damaged(kinds.CHANGED, name)
        else:
            self._findings.add_stale(kinds.RECORD, name)
        return False

    def check_errors(self, name: str, footer: Footer) -> None:
        """Compare all columns of a part's errors table with the failures in its footer."""
        try:
            if not self._is_table_of(footer, list(read_errors(self._dataset, name))):
                self._findings.add_stale(kinds.ERRORS, name)
        except DatasetError as error:
            self._add_stale(kinds.ERRORS, name, error)

    def _is_table_of(self, footer: Footer, rows: list[Failure]) -> bool:
        """Return whether an errors table has a part's failures; superseded ones may be missing."""
        failed = list(footer.failures)
        if rows == failed:
            return True
        gone = {failure.item.id for failure in failed} - {failure.item.id for failure in rows}
        if rows != [failure for failure in failed if failure.item.id not in gone]:
            return False
        job = job_of(footer.shard)
        standing = set(self._ids.standing(gone, int(job or 0)))
        # The files decide: a retry's part may be newer than the list of parts.
        return superseded_ids(self._dataset, standing, after=job) == standing

    def _add_stale(self, problem: str, name: str, error: DatasetError) -> None:
        if is_folder(error):
            path = record_path(name) if problem == kinds.RECORD else errors_path(name)
            self._findings.add(kinds.FOREIGN, path)
        else:
            self._findings.add_stale(problem, name)
