"""Sets of ids in a scratch database on disk: exact at any size, in a few MB of memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from hashlib import blake2b

# (id, digest of its content, number of its origin)
Row = tuple[str, bytes, int]

_CACHE_KIB = 64 << 10
_DIGEST_BYTES = 16


def content_digest(value: str) -> bytes:
    """Return a digest of 16 bytes of an item's content, its uri or text."""
    return blake2b(value.encode(), digest_size=_DIGEST_BYTES).digest()


class IdIndex:
    """Ids, each with the digest of its content and a number that stands for its origin."""

    def __init__(self) -> None:
        self._database = open_scratch_database(
            "ids (id TEXT PRIMARY KEY, digest BLOB, origin INTEGER)"
        )

    def add(self, rows: Iterable[Row]) -> int:
        """Add the rows whose id is new; return their number."""
        before = self._database.total_changes
        self._database.executemany("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", rows)
        return self._database.total_changes - before

    def join(self, rows: Iterable[Row]) -> None:
        """Add rows; a known id gets the digest after its others, and the larger origin."""
        self._database.executemany(
            "INSERT INTO ids VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
            "digest = CASE instr(digest, excluded.digest) "
            "WHEN 0 THEN CAST(digest || excluded.digest AS BLOB) ELSE digest END, "
            "origin = max(origin, excluded.origin)",
            rows,
        )

    def get(self, id_: str) -> tuple[bytes, int] | None:
        """Return an id's digest and origin; None for an unknown id."""
        found: tuple[bytes, int] | None = self._database.execute(
            "SELECT digest, origin FROM ids WHERE id = ?", (id_,)
        ).fetchone()
        return found

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and self.get(id_) is not None

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT count(*) FROM ids").fetchone()
        return int(count)

    def close(self) -> None:
        self._database.close()


def open_scratch_database(table: str) -> sqlite3.Connection:
    """Return a private SQLite database with one table; `table` is its definition in SQL.

    The database lies in memory until it is larger than its cache, then in the temporary folder.
    It ends with the process. Several threads may use it, one at a time.
    """
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    database.executescript(
        f"""
        PRAGMA journal_mode = OFF;
        PRAGMA synchronous = OFF;
        PRAGMA cache_size = -{_CACHE_KIB};
        CREATE TABLE {table} WITHOUT ROWID;
        BEGIN;
        """
    )
    return database
