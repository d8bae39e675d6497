"""`queued.json`: into which queue, and how far, a dataset's plan was queued.

It is written when the last shard is in Redis, or as many as the queue had room for. So whoever
looks for lost messages can tell a submission that is still being queued, and the dataset of
another fleet, from its own, and knows which shards are still to be queued.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from clipfleet.errors import DatasetError
from clipfleet.messages import Shard
from clipfleet.storage.format.dataset import Dataset

QUEUED_PATH = "queued.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """That the shards up to `last_job` were queued; those from `rest` on when there is room."""

    queue: str
    dataset: str  # its root, as the messages name it: another machine may know it by another name
    last_job: str  # a job's id
    rest: str | None = None  # a shard's name; None: nothing is left to queue

    def to_json(self) -> str:
        """Return the file's text; `rest` stands only where there is one."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(fields, indent=2) + "\n"

    def was_queued(self, shard: Shard) -> bool:
        """Return whether a shard of the plan was queued, once at least."""
        return shard.job <= self.last_job and (self.rest is None or shard.name < self.rest)

    def waits(self, shard: Shard) -> bool:
        """Return whether a shard of the plan is to be queued when there is room."""
        return shard.job <= self.last_job and not self.was_queued(shard)


def read_queued(dataset: Dataset) -> Queued | None:
    """Return what was queued; None if nothing was.

    Raises:
        DatasetError: The file is damaged.
    """
    try:
        fields = json.loads(dataset.fs.read(QUEUED_PATH))
        queued = Queued(**fields)
        if not all(isinstance(value, str) for value in fields.values()):
            raise TypeError(f"not all are strings: {fields}")
    except FileNotFoundError:
        return None
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{dataset.root}/{QUEUED_PATH} is damaged ({error}): delete it, and "
            f"`clipfleet resume {dataset.root}` writes it again"
        ) from error
    return queued


def write_queued(dataset: Dataset, queued: Queued) -> None:
    """Keep what was queued; nothing is written if that is known, or a later job was queued.

    Who slept over its lock would take that job out of sight again: its rest would never be queued.

    Raises:
        DatasetError: The file is damaged.
    """
    known = read_queued(dataset)
    if known is None or (known != queued and known.last_job <= queued.last_job):
        dataset.fs.replace(QUEUED_PATH, queued.to_json().encode())
