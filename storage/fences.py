"""Fences: a job takes a number among the arrivals, so that each knows what came before it.

A fence is a part of single items without items, whose footer carries the record of a job. The
planner writes it when all plan files are there, and has read every part below its number: so
nothing that arrived until then is planned again. Whoever reads a fence writes the job's record
in its name, and so knows the plan before it can win a higher number: nothing that is planned
arrives again. The record still decides whether the job exists: another planner may have taken
the job's number meanwhile, and then the fence says nothing.
"""

from __future__ import annotations

import numpy as np

from storage.dataset import Dataset, utc_now
from storage.jobs import Job, parse_job, publish
from storage.parts import Embedded, Footer, part_bytes, part_path, read_footer


def put_fence(dataset: Dataset, name: str, job: Job) -> bool:
    """Take a number among the arrivals for a job whose plan files are there; False if it is taken.

    The job is published by whoever reads the fence, or finishes it.

    Raises:
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
    return dataset.fs.create(part_path(name), data)


def publish_fenced(dataset: Dataset, footer: Footer) -> Job | None:
    """Publish the job that a part fences; None if it fences none, or the job lost its number.

    Raises:
        DatasetError: The job's record is damaged, here or in the plan.
    """
    if not footer.job:
        return None
    place = f"the job in {dataset.root}/{part_path(footer.shard)}"
    job = parse_job(footer.job, place, remedy="move the part away, and submit again")
    return job if publish(dataset, job) else None


def read_fence(dataset: Dataset, name: str) -> Job | None:
    """Publish the job that the part with a name fences, as `publish_fenced` does.

    Raises:
        DatasetError: The part is damaged.
    """
    try:
        file = dataset.fs.open(part_path(name))
    except FileNotFoundError:
        return None  # deleted since it was listed
    with file:
        return publish_fenced(dataset, read_footer(file, path=part_path(name)))
