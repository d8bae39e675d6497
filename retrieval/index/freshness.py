"""An index is compared with its dataset: what it lacks, and what the dataset has no longer."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipfleet.errors import DatasetMismatchError
from clipfleet.retrieval.index.card import IndexCard, IndexedPart
from clipfleet.retrieval.index.dataset_parts import committed_parts
from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.index.sizing import EXACT_ROWS, usual_lists
from clipfleet.storage.format.dataset import Dataset, describe

_SHOWN = 5  # names of parts
_REMOVED_SHARE = 5  # one row of so many
_OUTGROWN = 4  # times the usual size


@dataclass(frozen=True, kw_only=True, slots=True)
class Freshness:
    """What an index and its dataset have not in common, by the names of parts.

    `missing` parts are in the dataset only, `vanished` ones in the index only; of `changed` ones
    the index has an earlier content. `advice` names reasons for a new index.
    """

    index: str
    dataset: str
    vectors: int  # that the index has, and the dataset too
    missing: tuple[IndexedPart, ...]
    vanished: tuple[IndexedPart, ...]
    changed: tuple[IndexedPart, ...]
    advice: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the index has what the dataset has."""
        return not (self.missing or self.vanished or self.changed)

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return {
            "ok": self.ok,
            "index": self.index,
            "dataset": self.dataset,
            "vectors": self.vectors,
            "missing": [part.name for part in self.missing],
            "missing_vectors": sum(part.rows for part in self.missing),
            "vanished": [part.name for part in self.vanished],
            "changed": [part.name for part in self.changed],
            "advice": list(self.advice),
        }

    def lines(self) -> list[str]:
        """Return the result for people."""
        state = "is up to date with" if self.ok else "is not up to date with"
        lines = [f"index {self.index} {state} {self.dataset}: {self.vectors:,} vectors are in both"]
        for what, parts in (
            ("not in the index", self.missing),
            ("no longer in the dataset", self.vanished),
            ("changed since", self.changed),
        ):
            if parts:
                rows = sum(part.rows for part in parts)
                count = f"{len(parts):,} part{'s' if len(parts) > 1 else ''}"
                lines.append(f"  {what}: {count} with {rows:,} vectors, {_names(parts)}")
        if not self.ok:
            command = shlex.join(["clipfleet", "index", self.dataset, self.index, "--append"])
            lines.append(f"  `{command}` brings it up to date")
        return [*lines, *(f"  {each}" for each in self.advice)]


def freshness(dataset: Dataset, path: str | Path) -> Freshness:
    """Compare an index with its dataset, by the names and SHA-256 of the parts; no vector is read.

    Raises:
        UsageError: There is no index at `path`.
        DatasetError: A file of it is missing or damaged, or a record of the dataset.
        DatasetMismatchError: The index has vectors of another model.
    """
    with Index.open(path) as index:  # its files are there, and have their sizes
        card, folder = index.card, index.path
    if card.model.identity != dataset.info.model:
        raise DatasetMismatchError(
            f"the index {folder} has vectors of {describe(card.model)}, and {dataset.root} those "
            f"of {describe(dataset.info.card)}: it is the index of {card.dataset}"
        )
    there = {part.name: part for part in committed_parts(dataset)}
    known = card.alive_parts()
    return Freshness(
        index=str(folder),
        dataset=dataset.root,
        vectors=sum(part.rows for part in known.values() if there.get(part.name) == part),
        missing=tuple(part for name, part in there.items() if name not in known),
        vanished=tuple(part for name, part in known.items() if name not in there),
        changed=tuple(
            part for name, part in known.items() if name in there and there[name] != part
        ),
        advice=tuple(_advice(card)),
    )


def _advice(card: IndexCard) -> list[str]:
    removed, lists = card.rows - card.alive_rows, usual_lists(card.alive_rows)
    advice = []
    if removed * _REMOVED_SHARE > card.rows:
        advice.append(
            f"{removed:,} of {card.rows:,} rows are removed and still take disk space: a new index "
            "has none"
        )
    if card.kind == "exact" and card.alive_rows > _OUTGROWN * EXACT_ROWS:
        advice.append(
            f"it compares {card.alive_rows:,} vectors with each query: a new index is faster"
        )
    if card.kind != "exact" and lists >= _OUTGROWN * card.structure.lists:
        advice.append(
            f"it has {card.structure.lists:,} lists, and {lists:,} are usual for so many vectors: "
            "a new index is faster"
        )
    return advice


def _names(parts: Sequence[IndexedPart]) -> str:
    shown = ", ".join(part.name for part in parts[:_SHOWN])
    more = len(parts) - _SHOWN
    return shown + (f" and {more:,} more" if more > 0 else "")
