"""Counts of every id of a dataset, on disk: how often it is planned, and how often written."""

from __future__ import annotations

from collections.abc import Iterable

from clipfleet.storage.format.id_index import ScratchDatabase

# Conditions for `IdCounts.count` and `IdCounts.first`.
PLANNED = "planned > 0"
PLANNED_TWICE = "planned > 1"
MISSING = "(planned > 0 OR retried > 0) AND written = 0"
DOUBLED = "written > 1"
UNPLANNED = "planned = 0 AND retried = 0 AND written > single"


class IdCounts:
    """For each id: how often plans have it, and how often parts and errors tables have it.

    Every method raises StorageError if the temporary folder is full.
    """

    def __init__(self) -> None:
        self._database = ScratchDatabase(
            """
            ids (
                id TEXT PRIMARY KEY,
                planned INTEGER, -- rows in plans
                written INTEGER, -- rows in parts and errors tables
                single INTEGER,  -- of these, rows in parts and errors tables of single items
                retried INTEGER  -- the newest job that retried it and has its part, or 0
            )
            """
        )

    def plan(self, ids: Iterable[str], *, written: bool) -> None:
        """Note that a plan has ids, and whether a part has them too."""
        self._database.write(
            "INSERT INTO ids VALUES (?, 1, ?, 0, 0) ON CONFLICT DO UPDATE "
            "SET planned = planned + 1, written = written + excluded.written",
            ((id_, int(written)) for id_ in ids),
        )

    def retry(self, ids: Iterable[str], job: int) -> None:
        """Note that a part of a retry has ids; jobs come oldest first."""
        self._database.write(
            "INSERT INTO ids VALUES (?, 0, 0, 0, ?) ON CONFLICT DO UPDATE "
            "SET retried = excluded.retried",
            ((id_, job) for id_ in ids),
        )

    def standing(self, ids: Iterable[str], job: int) -> list[str]:
        """Return the ids, of failures in a part of a job, that no later retry has."""
        query = "SELECT 1 FROM ids WHERE id = ? AND retried > ?"
        return [i for i in ids if not self._database.read(query, (i, job))]

    def write(self, ids: Iterable[str], *, single: bool) -> None:
        self._database.write(
            "INSERT INTO ids VALUES (?, 0, 1, ?, 0) ON CONFLICT DO UPDATE "
            "SET written = written + 1, single = single + excluded.single",
            ((id_, int(single)) for id_ in ids),
        )

    def count(self, condition: str) -> int:
        """Return the number of ids that meet one of the conditions above."""
        ((count,),) = self._database.read(
            f"SELECT count(*) FROM ids WHERE {condition}"  # noqa: S608 - constants of this module
        )
        return int(count)

    def first(self, condition: str, limit: int) -> list[str]:
        """Return the first few ids, sorted, that meet one of the conditions above."""
        rows = self._database.read(
            f"SELECT id FROM ids WHERE {condition} ORDER BY id LIMIT {limit}"  # noqa: S608
        )
        return [id_ for (id_,) in rows]

    def close(self) -> None:
        self._database.close()
