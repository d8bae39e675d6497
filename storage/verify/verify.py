"""The check that a dataset is whole: every byte as committed, every item once, one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from clipfleet.errors import DatasetError
from clipfleet.storage.commit.record import has_empty_record
from clipfleet.storage.filesystem.open_filesystem import STORE_TIMEOUT_S
from clipfleet.storage.format.dataset import Dataset, error_names, part_names, record_names
from clipfleet.storage.format.parts import ITEMS_PREFIX, part_path
from clipfleet.storage.plan.jobs import Job, shards
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.plan.retries import job_of
from clipfleet.storage.verify import id_counts
from clipfleet.storage.verify import verification as kinds
from clipfleet.storage.verify.names import NAME, check_names
from clipfleet.storage.verify.packs import check_packs
from clipfleet.storage.verify.part_check import PartChecker, PlannedRows
from clipfleet.storage.verify.plan_files import check_plan_files, readable_jobs
from clipfleet.storage.verify.verification import Findings, Verification


def verify_dataset(
    dataset: str | Dataset, *, quick: bool = False, store_timeout_s: float = STORE_TIMEOUT_S
) -> Verification:
    """Read a whole dataset, given as a location or opened, and return its problems.

    Memory stays flat: ids are counted on disk, and one part is read at a time. With `quick`, only
    names, footers and records are read.

    Raises:
        DatasetError: There is no dataset, or its `dataset.json` is damaged.
    """
    if isinstance(dataset, str):
        dataset = Dataset.open(dataset, store_timeout_s=store_timeout_s)
    with closing(id_counts.IdCounts()) as ids, PlanReader(dataset) as plan:
        return _Verifier(dataset, ids, plan, quick=quick).verify()


class _Verifier:
    def __init__(
        self, dataset: Dataset, ids: id_counts.IdCounts, plan: PlanReader, *, quick: bool
    ) -> None:
        self._dataset = dataset
        self._ids = ids
        self._plan = plan
        self._quick = quick
        self._result = Verification(dataset=dataset.root, model=dataset.info.model, quick=quick)
        self._findings = Findings()
        self._checker = PartChecker(dataset, ids, self._result, self._findings)
        self._parts = part_names(dataset.fs)
        # A record follows its part: so each part of a record in this list is in the first list, or
        # `_check_lost` finds it.
        self._records = {name for name in record_names(dataset.fs) if NAME.fullmatch(name)}
        self._tables = {name for name in error_names(dataset.fs) if NAME.fullmatch(name)}
        self._sound: set[str] = set()  # ids of jobs with sound plan files

    def verify(self) -> Verification:
        jobs = readable_jobs(self._dataset, self._findings)
        check_names(self._dataset, jobs, self._parts, self._records, self._findings)
        check_packs(self._dataset, self._findings)
        self._sound = {
            job.id
            for job in jobs
            if check_plan_files(self._dataset, job, self._findings, quick=self._quick)
        }
        if self._quick:
            self._check_parts_quickly(jobs)
        else:
            self._check_parts(jobs)
        self._checker.finish()
        self._check_lost()
        self._findings.report(self._result)
        return self._result

    def _check_parts(self, jobs: Sequence[Job]) -> None:
        self._note_retries(jobs)
        others = set(self._parts)
        for job in jobs:
            for name, rows in self._planned(job):
                written = False
                if name in others:
                    others.remove(name)
                    written = self._check_part(name, rows if job.id in self._sound else None)
                if not job.retry:  # a retry's items are planned by another job, or single items
                    self._ids.plan(rows.ids, written=written)
                elif written:
                    self._ids.write(rows.ids, single=False)
        for name in sorted(others):
            self._check_part(name, None)
        self._check_jobs_of(others, jobs)
        self._check_ids(plan_is_sound=all(job.id in self._sound for job in jobs))

    def _note_retries(self, jobs: Sequence[Job]) -> None:
        """Note which ids the parts of retries have, oldest first."""
        for job in jobs:
            for name, rows in self._planned(job) if job.retry else ():
                if name in self._parts:
                    self._ids.retry(rows.ids, int(job.id))

    def _check_part(self, name: str, planned: PlannedRows | None) -> bool:
        return self._checker.check(name, finished=name in self._records, planned=planned)

    def _planned(self, job: Job) -> Iterator[tuple[str, PlannedRows]]:
        """Yield the shards of a job whose plan can be read."""
        for shard in shards(job):
            try:
                ids, values = self._plan.read_rows(job, shard.index)
            except DatasetError as error:
                if job.id in self._sound:  # `check_plan_files` did not name the file
                    self._findings.add(kinds.PLAN, f"shard {shard.name} ({error})")
                    self._sound.remove(job.id)
                continue
            yield shard.name, PlannedRows(ids=ids, values=values)

    def _check_parts_quickly(self, jobs: Sequence[Job]) -> None:
        has_retries = any(job.retry for job in jobs)
        others = set(self._parts)
        for job in jobs:
            self._result.planned += 0 if job.retry else job.items
            for shard in shards(job):
                if shard.name in others:
                    others.remove(shard.name)
                    self._check_part_quickly(shard.name, shard.size, has_retries=has_retries)
                    self._result.errors -= shard.size if job.retry else 0  # superseded
                elif not job.retry:
                    self._result.missing += shard.size
        for name in sorted(others):
            self._check_part_quickly(name, None, has_retries=has_retries)
        self._check_jobs_of(others, jobs)
        self._findings.add_count(kinds.MISSING, self._result.missing, ["in shards without a part"])

    def _check_part_quickly(self, name: str, size: int | None, *, has_retries: bool) -> None:
        self._checker.check_quick(
            name,
            finished=name in self._records,
            size=size,
            has_errors=None if has_retries else name in self._tables,
        )

    def _check_jobs_of(self, others: set[str], jobs: Sequence[Job]) -> None:
        """Find parts of shards that no plan has; the plans of others cannot be read."""
        known = {job.id: job.shards for job in jobs}
        for name in sorted(others):
            if name.startswith(ITEMS_PREFIX) or name in self._findings.damaged:
                continue
            index = name.partition("-")[2]
            if job_of(name) not in known:
                self._findings.add(kinds.NO_JOB, name)
            elif not index.isdecimal() or int(index) >= known[job_of(name)]:
                self._findings.add_damaged(kinds.NOT_PLANNED_SO, name, f"{name} (no such shard)")

    def _check_lost(self) -> None:
        """Find records and errors tables without a part."""
        for name in sorted(self._records - self._parts):
            # An existing part is newer than the list.
            if not self._dataset.fs.exists(part_path(name)) and not (
                name.startswith(ITEMS_PREFIX) and has_empty_record(self._dataset, name)
            ):
                self._findings.add_part(kinds.NO_PART, name)
        for name in sorted(self._tables - self._parts):
            self._findings.add_stale(kinds.ERRORS, name)

    def _check_ids(self, *, plan_is_sound: bool) -> None:
        ids, result = self._ids, self._result
        result.planned = ids.count(id_counts.PLANNED)
        result.missing = self._add_ids(kinds.MISSING, id_counts.MISSING)
        result.doubled = self._add_ids(kinds.DOUBLED, id_counts.DOUBLED)
        if plan_is_sound:
            result.unplanned = self._add_ids(kinds.UNPLANNED, id_counts.UNPLANNED)
        self._add_ids(kinds.PLANNED_TWICE, id_counts.PLANNED_TWICE)

    def _add_ids(self, problem: str, condition: str) -> int:
        count = self._ids.count(condition)
        examples = [repr(id_) for id_ in self._ids.first(condition, kinds.SHOWN)] if count else []
        self._findings.add_count(problem, count, examples)
        return count
