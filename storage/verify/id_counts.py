"""A count, for every id of a dataset, of where it stands: the proof's bookkeeping, on disk."""

from __future__ import annotations

from collections.abc import Iterable

from clipfleet.storage.format.scratch_database import open_scratch_database


class Tally:
    """How often each id is planned, and how often it is in a part or an errors table."""

    def __init__(self) -> None:
        self._database = open_scratch_database(
            """
            ids (
                id TEXT PRIMARY KEY,
                planned INTEGER, -- times in a plan
                written INTEGER, -- rows in parts and errors tables
                arrived INTEGER, -- of these, rows of items that came singly
                retried INTEGER  -- the newest job that retried it and has its part, or 0
            )
            """
        )

    def plan(self, ids: Iterable[str]) -> None:
        self._database.executemany(
            "INSERT INTO ids VALUES (?, 1, 0, 0, 0) ON CONFLICT DO UPDATE "
            "SET planned = planned + 1",
            ((id_,) for id_ in ids),
        )

    def retry(self, ids: Iterable[str], job: int) -> None:
        """Note that a part of a retry has ids; jobs come oldest first."""
        self._database.executemany(
            "INSERT INTO ids VALUES (?, 0, 0, 0, ?) ON CONFLICT DO UPDATE "
            "SET retried = excluded.retried",
            ((id_, job) for id_ in ids),
        )

    def standing(self, ids: Iterable[str], job: int) -> list[str]:
        """Return the ids, failures in a part of a job, that no later retry has."""
        query = "SELECT 1 FROM ids WHERE id = ? AND retried > ?"
        return [i for i in ids if not self._database.execute(query, (i, job)).fetchone()]

    def write(self, ids: Iterable[str], *, arrived: bool) -> None:
        self._database.executemany(
            "INSERT INTO ids VALUES (?, 0, 1, ?, 0) ON CONFLICT DO UPDATE "
            "SET written = written + 1, arrived = arrived + excluded.arrived",
            ((id_, int(arrived)) for id_ in ids),
        )

    def count(self, condition: str) -> int:
        """Return how many ids meet one of the conditions below."""
        (count,) = self._database.execute(
            f"SELECT count(*) FROM ids WHERE {condition}"  # noqa: S608 - constants of this module
        ).fetchone()
        return int(count)

    def first(self, condition: str, limit: int) -> list[str]:
        """Return the first few ids, sorted, that meet one of the conditions below."""
        rows = self._database.execute(
            f"SELECT id FROM ids WHERE {condition} ORDER BY id LIMIT {limit}"  # noqa: S608
        )
        return [id_ for (id_,) in rows]

    def close(self) -> None:
        self._database.close()


PLANNED = "planned > 0"
PLANNED_TWICE = "planned > 1"
MISSING = "(planned > 0 OR retried > 0) AND written = 0"
DOUBLED = "written > 1"
UNPLANNED = "planned = 0 AND retried = 0 AND written > arrived"
