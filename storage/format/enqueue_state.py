"""`queued.json`: the queue of a dataset's plan, and how far the plan was queued.

A submission writes it after its last shard is in Redis, or after the queue is full. The search
for lost messages reads it: it skips a submission that is not finished and a dataset of another
fleet, and it knows which shards are still to be queued.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from clipfleet.errors import DatasetError
from clipfleet.messages import Shard
from clipfleet.settings.datasets import allowed_failures
from clipfleet.storage.format.dataset import Dataset

QUEUED_PATH = "queued.json"

_JOB = re.compile(r"[0-9]{5}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """The shards up to `last_job` were queued, those from `rest` on wait for room in the queue."""

    queue: str
    dataset: str  # its root as in the messages; another machine may use another path
    last_job: str  # a job's id
    rest: str | None = None  # a shard's name; None: all shards were queued
    max_failed: str | None = None  # of a job's items, see `allowed_failures`; None: no limit

    def to_json(self) -> str:
        """Return the text of the file, without what is None."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(fields, indent=2) + "\n"

    def was_queued(self, shard: Shard) -> bool:
        """Return whether a shard of the plan was queued at least once."""
        return shard.job <= self.last_job and (self.rest is None or shard.name < self.rest)

    def waits(self, shard: Shard) -> bool:
        """Return whether a shard of the plan waits for room in the queue."""
        return shard.job <= self.last_job and not self.was_queued(shard)


def read_queued(dataset: Dataset) -> Queued | None:
    """Return the state of a dataset's queueing; None if nothing was queued.

    Raises:
        DatasetError: The file is damaged.
    """
    try:
        fields = json.loads(dataset.fs.read(QUEUED_PATH))
        queued = Queued(**fields)
        if not all(isinstance(value, str) for value in fields.values()):
            raise TypeError(f"not all are strings: {fields}")
        if not _JOB.fullmatch(queued.last_job):
            raise ValueError(f"{queued.last_job[:40]!r} is no job")
        if queued.max_failed is not None:
            allowed_failures(queued.max_failed, 1)
    except FileNotFoundError:
        return None
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{dataset.root}/{QUEUED_PATH} is damaged ({error}): delete it, and "
            f"`clipfleet resume {dataset.root}` writes it again"
        ) from error
    return queued


def write_queued(dataset: Dataset, queued: Queued) -> None:
    """Write the state, unless it is unchanged or the file has a later job.

    A process whose lock expired must not overwrite a later job: its rest would never be queued.

    Raises:
        DatasetError: The file is damaged.
    """
    known = read_queued(dataset)
    if known is None or (known != queued and known.last_job <= queued.last_job):
        dataset.fs.replace(QUEUED_PATH, queued.to_json().encode())
