"""`moved.json`: the folders of sources that were moved after their items were planned.

A plan keeps the uris that it was made with. Those below a moved folder are read as uris below its
present place, in all jobs that were planned before the move.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated
from urllib.parse import quote

from pydantic import Field, TypeAdapter, ValidationError

from clipfleet.errors import DatasetError
from clipfleet.storage.filesystem.members import member_prefixes
from clipfleet.storage.filesystem.remote import is_remote
from clipfleet.storage.format.dataset import Dataset
from clipfleet.validation import problems

MOVED_PATH = "moved.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A folder `old` of items in jobs up to `last_job` is now the folder `new`; absolute paths."""

    old: str
    new: str
    last_job: Annotated[str, Field(pattern=r"^[0-9]{5}$")]


_MOVES = TypeAdapter(tuple[Move, ...])


@dataclass(frozen=True, slots=True)
class Moves:
    """The moves of a dataset, oldest first."""

    moves: tuple[Move, ...] = ()

    def uri(self, uri: str, job: str) -> str:
        """Return the present uri of an item that a job planned with `uri`."""
        for move in self.moves:
            if job <= move.last_job:
                uri = _moved(uri, move)
        return uri


def read_moves(dataset: Dataset) -> Moves:
    """Return the moves of a dataset; texts have none.

    Raises:
        DatasetError: The file is damaged.
        StorageError: The disk did not answer.
    """
    if dataset.info.tower == "txt":
        return Moves()
    try:
        return Moves(_MOVES.validate_json(dataset.fs.read(MOVED_PATH), strict=True))
    except FileNotFoundError:
        return Moves()
    except ValidationError as error:
        raise DatasetError(
            f"{dataset.root}/{MOVED_PATH} is damaged ({problems(error)}): restore it, or delete it "
            "and submit with --moved-from again"
        ) from error


def write_moves(dataset: Dataset, moves: Moves) -> None:
    """Replace the moves of a dataset."""
    fields = [asdict(move) for move in moves.moves]
    dataset.fs.replace(MOVED_PATH, (json.dumps(fields, indent=2) + "\n").encode())


def is_below(uri: str, folder: str) -> bool:
    """Return whether a uri, a path or a URL of a file or a member, is below a folder."""
    return any(uri.startswith(prefix) for prefix in _prefixes(folder))


def _moved(uri: str, move: Move) -> str:
    for old, new in zip(_prefixes(move.old), _prefixes(move.new), strict=True):
        if uri.startswith(old):
            return new + uri[len(old) :]
    return uri


def _prefixes(folder: str) -> Iterator[str]:
    """Yield the beginnings of the uris below a folder: a path, and URLs as sources write them."""
    path = os.path.join(folder, "")
    yield path
    if is_remote(folder):  # each form of a path on a disk becomes the one form of a URL
        yield from (path, path)
    else:
        yield f"file://{path}"
        yield "file://" + quote(os.fsencode(path))
    yield from member_prefixes(folder)
