"""Overwritten files: pictures whose bytes changed, while their ids and paths did not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache

from clipfleet.error_codes import GONE, MISSING, REMOVED
from clipfleet.items import Item
from clipfleet.storage.filesystem.members import is_member
from clipfleet.storage.format.dataset import FILE_COLUMNS, Dataset
from clipfleet.storage.format.part_items import PartItems
from clipfleet.storage.plan.jobs import read_job
from clipfleet.storage.plan.standing import Standing, standing_items
from clipfleet.storage.stores.file_stats import file_hashes, file_of, file_stats
from clipfleet.storage.stores.objects import FileStat

_NS = 1_000_000_000  # in a second


class OverwrittenFiles:
    """The items of a dataset whose files were overwritten after they were read.

    A file with a vector was, if its size or time differs from those in the part; or, `by_hash`, if
    its SHA-256 does. If the part has a hash, other times alone are no difference. Without these
    columns, and for an item without a vector, the file was changed after its job was planned. A
    file that was missing, or `gone`, was if it exists now; a `removed` item never was. The file of
    a member is the one that it is in. Files of object stores are among them.
    """

    def __init__(self, dataset: Dataset, *, by_hash: bool) -> None:
        """Hashes are asked for only if the dataset has a column of them."""
        self.gone = 0  # items with vectors whose files do not exist
        self._dataset = dataset
        self._by_hash = by_hash
        self._has_hashes = "content_hash" in dataset.info.columns
        self._has_stats = set(FILE_COLUMNS) <= set(dataset.info.columns)
        self._planned_at_ns = cache(self._read_planned_at_ns)

    def __iter__(self) -> Iterator[tuple[Item, Standing]]:
        """Yield the items, each with where it stands.

        Raises:
            UsageError: A file cannot be looked at.
            DatasetError: A part or a plan is damaged.
            StorageError: The disk did not answer.
        """
        self.gone = 0
        if self._dataset.info.tower == "img":
            yield from standing_items(self._dataset, self._choose, self._dataset.info.columns)

    def _choose(self, job: str, uris: Sequence[str], part: PartItems) -> list[int]:
        files = {n: path for n, uri in enumerate(uris) if (path := file_of(uri))}
        stats = zip(files, file_stats(list(files.values())), strict=True)
        there = {n: stat for n, stat in stats if stat is not None}
        if part.rows is None:
            errors = [part.failures[item.id].error for item in part.items]
            return [n for n, stat in there.items() if self._is_mended(errors[n], stat, job)]
        self.gone += len(files) - len(there)
        # A member with other bytes has another URL: it is newer content.
        whole = {n: stat for n, stat in there.items() if not is_member(uris[n])}
        changed = list(whole) if self._by_hash else self._other_stats(job, whole, part)
        if self._has_hashes:
            return self._other_hashes({n: files[n] for n in changed}, part)
        return changed

    def _is_mended(self, error: str, stat: FileStat, job: str) -> bool:
        if error in (MISSING, GONE):
            return True
        return error != REMOVED and stat.mtime_ns > self._planned_at_ns(job)

    def _other_stats(self, job: str, stats: dict[int, FileStat], part: PartItems) -> list[int]:
        if part.rows is None or not self._has_stats:
            return [n for n, stat in stats.items() if stat.mtime_ns > self._planned_at_ns(job)]
        sizes, times = (part.rows[name].to_pylist() for name in FILE_COLUMNS)
        return [
            n
            for n, stat in stats.items()
            if stat.size_bytes != sizes[n] or (times[n] and stat.mtime_ns != times[n])
        ]

    def _other_hashes(self, files: Mapping[int, str], part: PartItems) -> list[int]:
        known = part.rows["content_hash"].to_pylist() if part.rows is not None else []
        found = file_hashes(list(files.values()))
        return [n for n, sha256 in zip(files, found, strict=True) if sha256 not in (None, known[n])]

    def _read_planned_at_ns(self, job: str) -> int:
        planned_at = datetime.fromisoformat(read_job(self._dataset, job).created_at)
        return int(planned_at.timestamp() * _NS)
