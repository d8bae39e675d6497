"""Prediction files in the guide's format, which the original's evaluation scripts read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from clipfleet.atomic_write import atomic_write

Query = Literal["text", "image"]

_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]*")


class PredictionFile:
    """Writes `{"text_id": …, "image_ids": [best, …]}` a line, or the same for images."""

    def __init__(self, file: TextIO, query: Query, *, whole_numbers: bool) -> None:
        answer = "image" if query == "text" else "text"
        self._file = file
        self._fields = f"{query}_id", f"{answer}_ids"
        self._id = int if whole_numbers else str

    def write(self, queries: Sequence[str], rows: NDArray[np.int64], ids: Sequence[str]) -> None:
        """Write a line for each query; `rows` (q, k) are the places of its answers in `ids`."""
        query, answers = self._fields
        for name, found in zip(queries, rows.tolist(), strict=True):
            best = [self._id(ids[row]) for row in found if row >= 0]
            line = {query: self._id(name), answers: best}
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")


@contextmanager
def open_predictions(path: Path, query: Query, *, whole_numbers: bool) -> Iterator[PredictionFile]:
    """Yield a prediction file, which appears at `path` when it is whole.

    Raises:
        OSError: It cannot be written.
    """
    with atomic_write(path) as part, part.open("w", encoding="utf-8") as file:
        yield PredictionFile(file, query, whole_numbers=whole_numbers)


def are_whole_numbers(ids: Iterable[str]) -> bool:
    """Return whether all ids are whole numbers, which the original's evaluation demands."""
    return all(map(_WHOLE_NUMBER.fullmatch, ids))
