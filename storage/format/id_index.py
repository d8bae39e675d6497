"""Sets of ids in a scratch database on disk: exact at any size, in a few MB of memory."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

from clipfleet.errors import StorageError

# (id, digest of its content, number of its origin)
Row = tuple[str, bytes, int]

_CACHE_KIB = 64 << 10
_DIGEST_BYTES = 16
# Where SQLite puts temporary files: the first folder that this process may write to.
_FOLDER_VARIABLES = ("SQLITE_TMPDIR", "TMPDIR")
_FOLDERS = ("/var/tmp", "/usr/tmp", "/tmp", ".")  # noqa: S108 - SQLite's, not ours


def content_digest(value: str) -> bytes:
    """Return a digest of 16 bytes of an item's content, its uri or text."""
    return blake2b(value.encode(), digest_size=_DIGEST_BYTES).digest()


class ScratchDatabase:
    """A private SQLite database with one table.

    It lies in memory until it is larger than its cache, then in the temporary folder. It ends with
    the process. Several threads may use it, one at a time. After an error it is `damaged`: rows
    may be missing.

    Every method raises StorageError if the temporary folder is full, or its disk fails.
    """

    def __init__(self, table: str) -> None:
        """`table` is the table's definition in SQL."""
        self.damaged = False
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        with self._errors():
            self._database.executescript(
                f"""
                PRAGMA journal_mode = OFF;
                PRAGMA synchronous = OFF;
                PRAGMA cache_size = -{_CACHE_KIB};
                CREATE TABLE {table} WITHOUT ROWID;
                BEGIN;
                """
            )

    def write(self, statement: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run a statement for each row; return how many rows of the table changed."""
        before = self._database.total_changes
        with self._errors():
            self._database.executemany(statement, rows)
        return self._database.total_changes - before

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query."""
        with self._errors():
            return self._database.execute(query, values).fetchall()

    def stream(self, query: str) -> Iterator[Any]:
        """Yield the rows of a query; memory holds one."""
        with self._errors():
            rows = self._database.execute(query)
        while True:
            with self._errors():
                row = next(rows, None)
            if row is None:
                return
            yield row

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            self.damaged = True
            raise no_room(error) from error


class IdIndex:
    """Ids, each with the digest of its content and a number that stands for its origin.

    Every method raises StorageError, and the index is then `damaged`, as in `ScratchDatabase`.
    """

    def __init__(self) -> None:
        self._database = ScratchDatabase("ids (id TEXT PRIMARY KEY, digest BLOB, origin INTEGER)")

    @property
    def damaged(self) -> bool:
        """Whether rows may be missing."""
        return self._database.damaged

    def add(self, rows: Iterable[Row]) -> int:
        """Add the rows whose id is new; return their number."""
        return self._database.write("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", rows)

    def join(self, rows: Iterable[Row]) -> None:
        """Add rows; a known id gets the digest after its others, and the larger origin."""
        self._database.write(
            "INSERT INTO ids VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
            "digest = CASE instr(digest, excluded.digest) "
            "WHEN 0 THEN CAST(digest || excluded.digest AS BLOB) ELSE digest END, "
            "origin = max(origin, excluded.origin)",
            rows,
        )

    def get(self, id_: str) -> tuple[bytes, int] | None:
        """Return an id's digest and origin; None for an unknown id."""
        found = self._database.read("SELECT digest, origin FROM ids WHERE id = ?", (id_,))
        return found[0] if found else None

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and self.get(id_) is not None

    def __len__(self) -> int:
        ((count,),) = self._database.read("SELECT count(*) FROM ids")
        return int(count)

    def close(self) -> None:
        self._database.close()


def no_room(error: Exception) -> StorageError:
    """Return the error about a temporary folder that takes no more of an index of ids."""
    return StorageError(
        f"the index of ids does not fit into the temporary folder {scratch_folder()} ({error}): "
        "free some space there, or set TMPDIR to a folder with more, and run again"
    )


def scratch_folder() -> str:
    """Return the folder of SQLite's temporary files."""
    named = [os.environ[name] for name in _FOLDER_VARIABLES if os.environ.get(name)]
    folders = [*named, *_FOLDERS]
    usable = (one for one in folders if os.path.isdir(one) and os.access(one, os.W_OK | os.X_OK))
    return next(usable, folders[0])
