"""`queued.json`: into which queue, and up to which job, a dataset's plan was queued in full.

It is written when the last shard is in Redis. So whoever looks for lost messages can tell a
submission that is still being queued, and the dataset of another fleet, from its own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from clipfleet.errors import DatasetError
from storage.dataset import Dataset

QUEUED_PATH = "queued.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """That all shards up to `last_job` were queued."""

    queue: str
    dataset: str  # its root, as the messages name it: another machine may know it by another name
    last_job: str  # a job's id


def read_queued(dataset: Dataset) -> Queued | None:
    """Return what was queued in full; None if nothing was.

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
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{dataset.root}/{QUEUED_PATH} is damaged ({error}): delete it, and "
            f"`clipfleet resume {dataset.root}` writes it again"
        ) from error
    return queued


def write_queued(dataset: Dataset, queued: Queued) -> None:
    """Keep what was queued in full; nothing is written if that is known."""
    data = (json.dumps(asdict(queued), indent=2) + "\n").encode()
    if not dataset.fs.exists(QUEUED_PATH) or dataset.fs.read(QUEUED_PATH) != data:
        dataset.fs.replace(QUEUED_PATH, data)
