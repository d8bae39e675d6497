"""Find the near-duplicates of a dataset, and write which rows to keep."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipfleet.errors import UsageError
from clipfleet.reader import Dataset
from clipfleet.retrieval.dedupe.cells import Cells, assign_cells
from clipfleet.retrieval.dedupe.leaders import Groups, find_groups
from clipfleet.retrieval.dedupe.near_pairs import NearPairs
from clipfleet.retrieval.dedupe.rows import open_rows
from clipfleet.retrieval.dedupe.sample_check import SampleCheck, check_sample
from clipfleet.retrieval.dedupe.table import write_table
from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.threads import threads_of
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.filesystem.locations import local_path


@dataclass(frozen=True, kw_only=True, slots=True)
class Deduplication:
    """The result of `clipfleet.dedupe`: `rows` is the sum of `kept` and `dropped`.

    `groups` counts those of two rows or more, `largest_group` the rows of one. `cells` is 1 if
    every row was compared with every other one; then there is no `check`.
    """

    path: str
    dataset: str
    model: str  # ModelCard.identity
    threshold: float
    rows: int
    kept: int
    dropped: int
    groups: int
    largest_group: int
    cells: int
    check: SampleCheck | None

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        fields = asdict(self)
        if self.check is not None:
            fields["check"] |= {"recall": self.check.recall, "interval": self.check.interval}
        return fields

    def lines(self) -> list[str]:
        """Return the result for people."""
        counts = (
            f"{self.rows:,} rows: {self.kept:,} kept, {self.dropped:,} dropped (cosine ≥ "
            f"{self.threshold:g}); groups of two rows or more: {self.groups:,}, rows of the "
            f"largest: {self.largest_group:,}"
        )
        return [
            counts,
            self._proof(),
            f"written to {self.path}: the column kept says which rows to use",
        ]

    def _proof(self) -> str:
        check = self.check
        if check is None:
            return "every row was compared with every other one"
        if check.interval is None:
            return (
                f"sample: {check.rows:,} rows compared with all rows have no near-duplicate, so "
                "nothing is known about missed ones: give a larger --sample"
            )
        return (
            f"sample: {check.rows:,} rows compared with all rows have {check.pairs:,} near pairs; "
            f"the cells found {check.pairs_found:,}; of {check.rows_with_pairs:,} rows with pairs "
            f"{check.rows_whole:,} lost none (95 %: {check.interval[0]:.1%} to "
            f"{check.interval[1]:.1%}); {check.pairs_kept:,} near pairs are left among kept rows"
        )


def dedupe(
    dataset: str | Path,
    out: str | Path,
    *,
    threshold: float = 0.97,
    near_cells: int = 3,
    sample: int = 2000,
    seed: int = 0,
    settings: Settings | None = None,
) -> Deduplication:
    """Find the near-duplicates of a dataset, and write which rows to keep to a Parquet file.

    Rows are considered in order: larger pictures first, then lower ids. A row is dropped if its
    cosine with a kept row before it is at least `threshold`. Its representative is the nearest kept
    row. `out` has every id with a vector once: id, uri or text, kept, representative, cosine with
    it, and group_size.

    Up to 20,000 rows, all pairs are compared. In larger datasets, rows are compared inside their
    k-means cell and its `near_cells` nearest ones; `sample` rows are then compared with all rows,
    to measure what that missed. Equal arguments give the same groups on the same machine.

    Meanwhile, a file without a name in the folder of `out` holds the vectors in float16.

    Raises:
        UsageError: `threshold` is not above 0 and at most 1, or `out` does not end with .parquet,
            or it exists, or its folder does not.
        DependencyError: FAISS is not installed.
        DatasetError: There is no dataset, or a part is damaged, moved away or replaced; or an id is
            there twice.
        StorageError: The disk of `out` is full.
    """
    path = Path(local_path(str(out)))
    _check(path, threshold)
    settings = settings or load_settings()
    opened = Dataset(dataset, settings=settings)
    load_faiss()  # before its threads are limited
    with threads_of(settings), open_rows(opened, path.parent) as rows:
        cells = assign_cells(rows, near_cells=near_cells, seed=seed)
        pairs = NearPairs(rows=rows, cells=cells, threshold=threshold)
        groups = find_groups(pairs)
        check = None if cells.exact else check_sample(pairs, groups, rows=sample, seed=seed)
        result = _result(opened, path, threshold, cells, groups, check)
        write_table(path, opened, rows, groups, facts=result.to_json())
    return result


def _check(out: Path, threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise UsageError(
            f"the threshold is {threshold:g}: it is a cosine, so choose one above 0, at most 1; "
            "near-copies of a picture have about 0.97 and more"
        )
    if out.suffix.lower() != ".parquet":
        raise UsageError(f"{out}: expected a name that ends with .parquet")
    if out.exists():
        raise UsageError(f"{out} exists: choose another file, or delete it")
    if not out.parent.is_dir():
        raise UsageError(f"the folder {out.parent} does not exist: make it, or choose another one")


def _result(
    dataset: Dataset,
    out: Path,
    threshold: float,
    cells: Cells,
    groups: Groups,
    check: SampleCheck | None,
) -> Deduplication:
    sizes = groups.sizes[groups.kept]
    return Deduplication(
        path=str(out),
        dataset=dataset.path,
        model=dataset.model.identity,
        threshold=threshold,
        rows=len(groups.kept),
        kept=len(sizes),
        dropped=int(sizes.sum()) - len(sizes),
        groups=int((sizes > 1).sum()),
        largest_group=int(sizes.max(initial=0)),
        cells=cells.count,
        check=check,
    )
