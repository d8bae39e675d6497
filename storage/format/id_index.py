"""A set of ids on disk: exact at any size, in a few MB of memory."""

from __future__ import annotations

from collections.abc import Iterable

from clipfleet.storage.format.scratch_database import open_scratch_database

# (id, digest of its uri or text, where it came from)
Row = tuple[str, bytes, int]


class IdIndex:
    """Ids, each with the digest of its value and a number that says where it came from."""

    def __init__(self) -> None:
        self._database = open_scratch_database(
            "ids (id TEXT PRIMARY KEY, digest BLOB, origin INTEGER)"
        )

    def add(self, rows: Iterable[Row]) -> int:
        """Add the rows whose id is new; return how many were."""
        before = self._database.total_changes
        self._database.executemany("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", rows)
        return self._database.total_changes - before

    def get(self, id_: str) -> tuple[bytes, int] | None:
        """Return an id's digest and origin."""
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
