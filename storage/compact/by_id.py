"""`compact --sort id`: the parts in packs stand in the order of their smallest ids.

A reader that looks for an id leaves out the row groups whose statistics exclude it. So it reads few
if the ids of each part lie close together. Rows stay in their parts, which keep their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import part_path, row_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class IdRange:
    """A part, and its smallest and its largest id; of a part without rows, both are empty."""

    part: str
    size_bytes: int
    least: str
    most: str


def ranges_by_id(dataset: Dataset, parts: Iterable[str]) -> list[IdRange]:
    """Return the ranges of parts in the order of their smallest ids, as strings.

    Raises:
        DatasetError: A part is damaged.
        StorageError: The disk did not answer.
    """
    ranges = [_range(dataset, part) for part in parts]
    return sorted(ranges, key=lambda one: (one.least, one.most, one.part))


def overlapping(ranges: Sequence[IdRange]) -> int:
    """Return how many of some ranges, in the order of `ranges_by_id`, have ids of another's."""
    filled = [one for one in ranges if one.most]
    found, most = 0, ""  # the largest id of all ranges before
    for one, after in zip(filled, [*filled[1:], None], strict=True):
        found += one.least <= most or (after is not None and after.least <= one.most)
        most = max(most, one.most)
    return found


def packs_by_id(ranges: Sequence[IdRange], file_bytes: int) -> Iterator[tuple[str, ...]]:
    """Yield the parts of each pack, in the order of the ranges; a pack has up to `file_bytes`."""
    pack: list[str] = []
    total_bytes = 0
    for one in ranges:
        if pack and total_bytes + one.size_bytes > file_bytes:
            yield tuple(pack)
            pack, total_bytes = [], 0
        pack.append(one.part)
        total_bytes += one.size_bytes
    if pack:
        yield tuple(pack)


def _range(dataset: Dataset, part: str) -> IdRange:
    path = part_path(part)
    with dataset.fs.open(path) as file:
        ids = row_ids(file, path=path)
        size_bytes = file.seek(0, 2)
    least, most = (min(ids), max(ids)) if ids else ("", "")
    return IdRange(part=part, size_bytes=size_bytes, least=least, most=most)
