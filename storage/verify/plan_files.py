"""The plan's files: the records of jobs, and the shards and checksums of their Parquet files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clipfleet.errors import DatasetError
from clipfleet.storage.format.checksums import file_sha256
from clipfleet.storage.format.dataset import PLAN_FOLDER, Dataset
from clipfleet.storage.format.parquet import PARQUET_ERRORS, open_parquet, parquet_error
from clipfleet.storage.plan.jobs import RESTORE, Job, job_ids, plan_file_path, read_job, shards
from clipfleet.storage.plan.retries import RETRY_MARK
from clipfleet.storage.verify.verification import PLAN, Findings

_ID = re.compile(r"[0-9]{5}")


def readable_jobs(dataset: Dataset, findings: Findings) -> list[Job]:
    """Return the jobs whose records can be read; the others are problems."""
    found = []
    for id_ in job_ids(dataset):
        if not _ID.fullmatch(id_):
            continue  # a foreign file
        try:
            job = read_job(dataset, id_)
        except DatasetError as error:
            findings.add(PLAN, str(error))
            continue
        if job.tower != dataset.info.tower or job.retry != job.token.startswith(RETRY_MARK):
            wrong = "its tower or kind is not that of its files"
            findings.add(PLAN, f"{PLAN_FOLDER}/{id_}.json ({wrong})")
        else:
            found.append(job)
    return found


def check_plan_files(dataset: Dataset, job: Job, findings: Findings, *, quick: bool) -> bool:
    """Return whether the plan files of a job are sound; problems are added.

    With `quick`, only their footers are read.
    """
    sizes = (shard.size for shard in shards(job))
    sound = True
    for number, count in enumerate(job.files):
        path = plan_file_path(job.id, job.token, number)
        expected = [next(sizes) for _ in range(count)]
        try:
            found = list(_row_counts(dataset, path))
            if found != expected:
                wrong = f"{path} (its shards have {_short(found)} items, not {_short(expected)})"
            elif not quick and job.sha256 and _sha256(dataset, path) != job.sha256[number]:
                wrong = f"{path} (its SHA-256 is not that in {PLAN_FOLDER}/{job.id}.json)"
            else:
                continue
        except FileNotFoundError:
            wrong = f"{path} (missing)"
        except DatasetError as error:
            wrong = str(error)
        findings.add(PLAN, wrong)
        sound = False
    return sound


def _row_counts(dataset: Dataset, path: str) -> Iterator[int]:
    with dataset.fs.open(path) as file:
        try:
            metadata = open_parquet(file).metadata
            for index in range(metadata.num_row_groups):
                yield metadata.row_group(index).num_rows
        except PARQUET_ERRORS as error:
            raise parquet_error(error, path, remedy=RESTORE) from error


def _sha256(dataset: Dataset, path: str) -> str:
    return file_sha256(dataset.fs.read(path))


def _short(counts: list[int]) -> str:
    shown = ", ".join(map(str, counts[:3]))
    return f"{shown}, …" if len(counts) > 3 else shown or "no"
