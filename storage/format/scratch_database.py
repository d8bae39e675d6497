"""A private SQLite database on disk, for sets of ids of any size in a few MB of memory."""

from __future__ import annotations

import sqlite3

_CACHE_KIB = 64 << 10


def open_scratch_database(table: str) -> sqlite3.Connection:
    """Return a database without a name that has one table, `table` being SQL's definition of it.

    It lies in memory until it outgrows its cache, then in the temporary folder, and it is gone
    with the process. Threads may share it, one at a time.
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
