"""The names of a dataset's files: foreign files, and gaps in the numbers of jobs and parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set

from clipfleet.errors import DatasetError
from clipfleet.storage.commit.record import read_record
from clipfleet.storage.commit.single_items import single_items_part, single_items_part_number
from clipfleet.storage.format.dataset import (
    ERRORS_FOLDER,
    MANIFEST_FOLDER,
    PARTS_FOLDER,
    PLAN_FOLDER,
    Dataset,
)
from clipfleet.storage.format.dataset_info import INFO_PATH
from clipfleet.storage.format.enqueue_state import QUEUED_PATH, read_queued
from clipfleet.storage.format.parts import ITEMS_PREFIX, part_path, read_footer
from clipfleet.storage.format.stream_state import STREAM_PATH, read_last_part
from clipfleet.storage.plan.jobs import Job
from clipfleet.storage.verify import verification as kinds
from clipfleet.storage.verify.verification import Findings

NAME = re.compile(r"[0-9A-Za-z_-]+")  # of a part, in the names of its files

_PLAN_FILE = re.compile(r"(?P<job>[0-9]{5})-(?P<token>(retry-)?[0-9a-z]+)-(?P<number>[0-9]{4})")
_NAMES = {
    PARTS_FOLDER: re.compile(r".+\.parquet"),  # with any name it is read as a part, and checked so
    ERRORS_FOLDER: re.compile(rf"{NAME.pattern}\.parquet"),
    MANIFEST_FOLDER: re.compile(rf"{NAME.pattern}\.json"),
    PLAN_FOLDER: re.compile(rf"[0-9]{{5}}\.json|{_PLAN_FILE.pattern}\.parquet"),
}


def check_names(
    dataset: Dataset,
    jobs: Sequence[Job],
    parts: Set[str],
    records: Set[str],
    findings: Findings,
) -> None:
    """Look for foreign files, for jobs and parts that are gone, and for files of another kind.

    `parts` and `records` are the names of parts and of records. `jobs` are those whose records can
    be read.
    """
    for folder, pattern in _NAMES.items():
        for name in dataset.fs.list(folder):
            # Readers of Parquet leave out names with a dot, such as those of open deleted files.
            if not pattern.fullmatch(name) and not name.startswith("."):
                findings.add(kinds.FOREIGN, f"{folder}/{name}")
    _check_plan_files(dataset, jobs, findings)
    _check_jobs(dataset, findings)
    _check_kind(dataset, jobs, parts, findings)
    for number in _gaps(dataset, parts, records, findings):
        name = single_items_part(number)
        findings.stale[name] = None
        findings.add(kinds.GONE, f"{name} ({_time_of(dataset, number)})")


def _check_plan_files(dataset: Dataset, jobs: Sequence[Job], findings: Findings) -> None:
    """Find plan files beyond those that a job names.

    Files with another token are those of planners that lost the number; the next planner deletes
    them.
    """
    known = {job.id: job for job in jobs}
    for name in dataset.fs.list(PLAN_FOLDER):
        match = _PLAN_FILE.match(name)
        job = known.get(match["job"]) if match else None
        if match and job and match["token"] == job.token and int(match["number"]) >= len(job.files):
            findings.add(kinds.FOREIGN, f"{PLAN_FOLDER}/{name}")


def _check_jobs(dataset: Dataset, findings: Findings) -> None:
    """Find gaps in the numbers of jobs, which planners take without one."""
    try:
        queued = read_queued(dataset)
    except DatasetError:
        findings.add(kinds.QUEUED, QUEUED_PATH)
        queued = None
    # The list second: a job is queued after its record was written.
    names = dataset.fs.list(PLAN_FOLDER)
    numbers = {int(name[:5]) for name in names if re.fullmatch(r"[0-9]{5}\.json", name)}
    last = max(numbers, default=0)
    if queued is not None:
        last = max(last, int(queued.last_job))
    for number in range(1, last + 1):
        if number not in numbers:
            findings.add(kinds.NO_RECORD_OF_JOB, f"{number:05d}")


def _check_kind(dataset: Dataset, jobs: Sequence[Job], parts: Set[str], findings: Findings) -> None:
    kind = dataset.info.kind
    if kind == "stream" and (planned := [job.id for job in jobs if not job.retry]):
        findings.add(kinds.KIND, f"{INFO_PATH} says stream, but job {planned[0]} has a source")
    if kind == "planned" and (single := [n for n in parts if n.startswith(ITEMS_PREFIX)]):
        findings.add(kinds.KIND, f"{INFO_PATH} says planned, but {min(single)} has single items")


def _gaps(
    dataset: Dataset, parts: Set[str], records: Set[str], findings: Findings
) -> Iterator[int]:
    """Yield the numbers of parts of single items that are gone with their records.

    A record stays when its part was moved away. Earlier versions deleted it: so a gap counts only
    below a part that has a checksum.
    """
    if dataset.info.kind != "stream":
        return
    taken = sorted({n for name in parts | records if (n := _number(name))})
    below = 0
    for number in taken:
        if number - below > 1 and _has_checksum(dataset, single_items_part(number)):
            for gap in range(below + 1, number):
                # An existing part is newer than the lists.
                if not dataset.fs.exists(part_path(single_items_part(gap))):
                    yield gap
        below = number
    try:
        last = read_last_part(dataset)
    except DatasetError:
        findings.add(kinds.STREAM, STREAM_PATH)
        return
    for number in range(below + 1, last + 1):
        if not dataset.fs.exists(part_path(single_items_part(number))):
            yield number


def _number(name: str) -> int:
    return single_items_part_number(name) if name.startswith(ITEMS_PREFIX) else 0


def _has_checksum(dataset: Dataset, name: str) -> bool:
    """Return whether a part was written by a version that keeps the records of lost parts."""
    path = part_path(name)
    try:
        with dataset.fs.open(path) as file:
            return read_footer(file, path=path).payload_sha256 is not None
    except (DatasetError, FileNotFoundError):
        return False


def _time_of(dataset: Dataset, number: int) -> str:
    """Return when a part that is gone was written, by the records beside it."""
    times = []
    for beside in (number - 1, number + 1):
        try:
            record = read_record(dataset, single_items_part(beside))
        except DatasetError:
            record = None
        times.append(record.finished_at if record else "?")
    return f"written between {times[0]} and {times[1]}"
