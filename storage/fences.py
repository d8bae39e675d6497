"""Fences: a job takes a number among the arrivals, so that each knows what came before it.

A fence is a part of single items without items, whose footer carries the record of a job. The
planner writes it when all plan files are there, and has read every part below its number: so
nothing that arrived until then is planned again. Whoever reads a fence writes the job's record
in its name, and so knows the plan before it can win a higher number: nothing that is planned
arrives again. The record still decides whether the job exists: another planner may have taken
the job's number meanwhile, and then the fence says nothing. Nor does it if its own record is in
the manifest, which is written last, and the job's is not in the plan: somebody deleted the job.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from storage import jobs
from storage.dataset import Dataset, utc_now
from storage.jobs import Job, parse_job, publish, read_job
from storage.parts import Embedded, Footer, part_bytes, part_path, read_footer
from storage.records import record_path


def put_fence(dataset: Dataset, name: str, job: Job) -> bool:
    """Take a number among the arrivals for a job whose plan files are there; False if it is taken.

    The job is published by whoever reads the fence, or finishes it.

    Raises:
        DatasetError: The part that has the number is damaged.
        StorageError: The disk refused; the fence may be there all the same.
    """
    info = dataset.info
    nothing = Embedded(
        items=[],
        vectors=np.zeros((0, info.dim), np.float32),
        sizes=None if info.tower == "txt" else [],
        failures=[],
    )
    data = part_bytes(nothing, info, info.card, name, finished_at=utc_now(), job=job.to_json())
    if dataset.fs.create(part_path(name), data):
        return True
    # If the answer to a write is lost, then the write that follows is told that the name is taken.
    try:
        file = dataset.fs.open(part_path(name))
    except FileNotFoundError:
        return False  # moved away since
    with file:
        return read_footer(file, path=part_path(name)).job == job.to_json()


def fenced_job(dataset: Dataset, footer: Footer, known: Collection[str] = ()) -> Job | None:
    """Return the job that a part fences, and publish it if that was not decided yet.

    None if it fences none, if its number is among the `known`, if another job has it, or if the
    job was deleted since.

    Raises:
        DatasetError: The job's record is damaged, here or in the plan.
    """
    if not footer.job:
        return None
    place = f"the job in {dataset.root}/{part_path(footer.shard)}"
    job = parse_job(footer.job, place, remedy="move the part away, and submit again")
    if job.id in known:
        return None
    if not dataset.fs.exists(record_path(footer.shard)):
        return job if publish(dataset, job) else None
    stands = dataset.fs.exists(jobs.record_path(job.id)) and read_job(dataset, job.id) == job
    return job if stands else None
