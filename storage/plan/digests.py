"""Digests of ids: which ids a dataset has, and which come twice, in flat memory.

An id is told by 128 bits of BLAKE2b. Of 10^10 ids, two have one digest with a probability below
10^-18. Rows are collected in sorted runs. A full run goes to the temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import IO

import numpy as np
import numpy.typing as npt

from clipfleet.storage.format.id_index import no_room, scratch_folder

RUN_ROWS = 1 << 18  # of 32 bytes: as many are sorted in memory
_PIECES = 256  # of the range of digests; one is in memory when all runs are read

Words = npt.NDArray[np.uint64]

_HIGH, _LOW, _CONTENT, _ORIGIN = range(4)  # the columns of a row
_WIDTH = 4
_ROW_BYTES = _WIDTH * 8


def id_digests(ids: Iterable[str]) -> Words:
    """Return the digests of ids: uint64 (n, 2)."""
    return _digests(ids, size_bytes=16).reshape(-1, 2)


def content_digests(values: Iterable[str]) -> Words:
    """Return digests of the contents of items, their uris or texts: uint64 (n,)."""
    return _digests(values, size_bytes=8)


def _digests(values: Iterable[str], *, size_bytes: int) -> Words:
    data = b"".join([blake2b(v.encode(), digest_size=size_bytes).digest() for v in values])
    return np.frombuffer(data, np.uint64)


class DigestRuns:
    """Rows with the digest of an id, that of its content, and a number for its origin.

    Every method raises StorageError if the temporary folder is full.
    """

    def __init__(self) -> None:
        self.doubles = 0  # ids that were seen to come twice so far: those within a run
        self._pending: list[Words] = []
        self._pending_rows = 0
        self._bounds: list[Sequence[int]] = []  # of each run in the file: its pieces' first rows
        self._file: IO[bytes] | None = None

    def add(self, ids: Words, origins: Words, contents: Words | None = None) -> None:
        """Add rows: `ids` is uint64 (n, 2), `origins` and `contents` are uint64 (n,)."""
        rows = np.zeros((len(ids), _WIDTH), np.uint64)
        rows[:, : _LOW + 1] = ids
        rows[:, _ORIGIN] = origins
        if contents is not None:
            rows[:, _CONTENT] = contents
        self._pending.append(rows)
        self._pending_rows += len(rows)
        if self._pending_rows >= RUN_ROWS:
            self._end_run()

    @property
    def on_disk(self) -> bool:
        """Whether the rows are in the temporary folder."""
        return self._file is not None

    def pieces(self) -> Iterator[Words]:
        """Yield all rows, uint64 (n, 4), by digest; rows of one id are in one piece, oldest first.

        Memory holds one piece.
        """
        if self._file is None:
            if self._pending:
                yield _by_digest(np.concatenate(self._pending))
            return
        if self._pending:
            self._end_run()
        for piece in range(_PIECES):
            ranges = [(bounds[piece], bounds[piece + 1]) for bounds in self._bounds]
            yield _by_digest(np.concatenate([_read(self._file, *range_) for range_ in ranges]))

    def twice(self, limit: int) -> list[tuple[int, int]]:
        """Return the origins of ids that come twice, the first few by their second origin."""
        found: list[tuple[int, int]] = []
        for rows in self.pieces():
            same = np.flatnonzero(_is_double(rows))
            pairs = zip(rows[same, _ORIGIN].tolist(), rows[same + 1, _ORIGIN].tolist(), strict=True)
            found = sorted([*found, *pairs], key=lambda pair: pair[1])[:limit]
        return found

    def close(self) -> None:
        self._pending = []
        if self._file is not None:
            self._file.close()

    def _end_run(self) -> None:
        rows = _by_digest(np.concatenate(self._pending))
        self._pending, self._pending_rows = [], 0
        self.doubles += int(_is_double(rows).sum())
        starts = np.arange(_PIECES, dtype=np.uint64) << np.uint64(56)
        inner = np.searchsorted(rows[:, _HIGH], starts).tolist()
        begin = self._bounds[-1][-1] if self._bounds else 0
        self._bounds.append([begin + at for at in (*inner, len(rows))])
        if self._file is None:
            self._file = _scratch_file()
        _write(self._file, rows)


class PlannedIds:
    """The ids of plans, each with the content and the origin of its first row in `runs`.

    They lie in two files that the kernel maps, and takes out of memory where it needs the room.
    """

    def __init__(self, runs: DigestRuns) -> None:
        high, rest = _Column(on_disk=runs.on_disk), _Column(on_disk=runs.on_disk)
        for rows in runs.pieces():
            first = np.ones(len(rows), bool)
            first[1:] = ~_is_double(rows)
            high.add(rows[first, _HIGH])
            rest.add(rows[first, _LOW:])
        self._high = high.words()
        self._rest = rest.words().reshape(-1, _WIDTH - 1)

    def find(self, ids: Words) -> npt.NDArray[np.int64]:
        """Return the numbers of ids, -1 for unknown ones: int64 (n,) for uint64 (n, 2)."""
        found = np.full(len(ids), -1)
        if not len(self):
            return found
        order = np.argsort(ids[:, _HIGH])  # neighbours are near each other in the file too
        at = np.empty(len(ids), np.int64)
        at[order] = np.searchsorted(self._high, ids[order, _HIGH])
        left = np.arange(len(ids))
        while len(left):  # once, unless two ids have the same first half of their digests
            left = left[at[left] < len(self)]
            left = left[self._high[at[left]] == ids[left, _HIGH]]
            same = self._rest[at[left], 0] == ids[left, _LOW]
            found[left[same]] = at[left[same]]
            left = left[~same]
            at[left] += 1
        return found

    def contents(self, numbers: npt.NDArray[np.int64]) -> Words:
        """Return the digests of the contents of ids: uint64 (n,)."""
        contents: Words = self._rest[numbers, _CONTENT - 1]
        return contents

    def origin(self, number: int) -> int:
        """Return the origin of an id."""
        return int(self._rest[number, _ORIGIN - 1])

    def __len__(self) -> int:
        return len(self._high)


def _by_digest(rows: Words) -> Words:
    """Return rows sorted by their ids' digests; those of one id stay in order."""
    return rows[np.lexsort((rows[:, _LOW], rows[:, _HIGH]))]


def _is_double(rows: Words) -> npt.NDArray[np.bool_]:
    """Return for each sorted row but the last whether the next one has the same id."""
    doubles: npt.NDArray[np.bool_] = (rows[1:, : _LOW + 1] == rows[:-1, : _LOW + 1]).all(axis=1)
    return doubles


class _Column:
    """Words that are written once, and then read: in memory, or in a file that is mapped."""

    def __init__(self, *, on_disk: bool) -> None:
        self._file = _scratch_file() if on_disk else None
        self._parts = [np.empty(0, np.uint64)]

    def add(self, words: Words) -> None:
        if self._file is None:
            self._parts.append(words.reshape(-1))
        else:
            _write(self._file, words)

    def words(self) -> Words:
        if self._file is None:
            return np.concatenate(self._parts)
        with _errors(), self._file:  # the mapping outlives the file
            return np.memmap(self._file, np.uint64, "r")


def _scratch_file() -> IO[bytes]:
    """Return a file without a name in the temporary folder."""
    with _errors():
        return tempfile.TemporaryFile(buffering=0, dir=scratch_folder())


def _write(file: IO[bytes], words: Words) -> None:
    """Append words to a file."""
    left = memoryview(words.tobytes())
    with _errors():
        while left:
            left = left[file.write(left) :]


def _read(file: IO[bytes], first: int, last: int) -> Words:
    """Return the rows of a file from a first one to, and without, a last one."""
    with _errors():
        file.seek(first * _ROW_BYTES)
        data = file.read((last - first) * _ROW_BYTES)
    return np.frombuffer(data, np.uint64).reshape(-1, _WIDTH)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise no_room(error) from error
