"""`stream.json`: how many parts of single items a stream has had.

A worker writes it after each part. Without it, nobody would miss the newest part, if it was removed
with its record.
"""

from __future__ import annotations

import json

from clipfleet.errors import DatasetError
from clipfleet.storage.format.dataset import Dataset

STREAM_PATH = "stream.json"


def read_last_part(dataset: Dataset) -> int:
    """Return the number of the newest part of single items that was recorded; 0 without a file.

    Raises:
        DatasetError: The file is damaged.
    """
    try:
        number = json.loads(dataset.fs.read(STREAM_PATH))["last_part"]
        if type(number) is not int or number < 1:
            raise ValueError(f"{number!r} is no part's number")
    except FileNotFoundError:
        return 0
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{dataset.root}/{STREAM_PATH} is damaged ({error}): delete it, and the next part of "
            "single items writes it again"
        ) from error
    return number


def write_last_part(dataset: Dataset, number: int) -> None:
    """Record the number of a part, unless a newer one is recorded.

    Raises:
        StorageError: The disk refused the write.
    """
    try:
        known = read_last_part(dataset)
    except DatasetError:  # this write mends it
        known = 0
    if number > known:
        data = json.dumps({"last_part": number}, indent=2) + "\n"
        dataset.fs.replace(STREAM_PATH, data.encode())
