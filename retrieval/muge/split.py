"""A split of the guide's data: where its texts and its pictures are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipfleet.errors import SourceError


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The file of a split's texts, and its pictures: a TSV file or an LMDB folder."""

    name: str
    texts: Path
    pictures: Path


def find_split(folder: Path, name: str) -> Split:
    """Return a split of a folder that is laid out as in the guide.

    The pictures are those of the TSV file, or without one of the LMDB.

    Raises:
        SourceError: The split has no texts or no pictures there.
    """
    texts = folder / f"{name}_texts.jsonl"
    places = folder / f"{name}_imgs.tsv", folder / "lmdb" / name / "imgs"
    pictures = next((place for place in places if place.exists()), None)
    if pictures is None or not texts.is_file():
        missing = "texts" if pictures else "pictures"
        expected = str(texts) if pictures else " or ".join(map(str, places))
        there = ", ".join(sorted(path.name for path in folder.glob("*_texts.jsonl")))
        raise SourceError(
            f"split {name!r} has no {missing}: expected {expected}; of texts, {folder} "
            f"has {there or 'none'}"
        )
    return Split(name=name, texts=texts, pictures=pictures)
