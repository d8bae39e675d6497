"""The sources of a run: tables of photos of one size, and captions."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.captions import write_captions
from bench.gpu.pipeline.figures import CAPTIONS
from bench.gpu.pipeline.photos import make_photos, size_of


@dataclass(frozen=True, kw_only=True)
class Source:
    """A JSONL file: its name in the figures, and how many items it has."""

    name: str
    path: Path
    count: int


def photo_source(
    folder: Path, size: str, count: int, *, different: int, pictures: Path | None
) -> Source:
    """Return a table of `count` ids in a folder; they share `different` photos at most.

    Photos that an earlier run made are used again.
    """
    photos = folder / f"photos-{size}-{min(count, different)}"
    if not photos.exists():
        part = photos.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        make_photos(part, min(count, different), size_of(size), pictures)
        part.rename(photos)
    paths = sorted(str(path.relative_to(folder)) for path in photos.rglob("*.jpg"))
    table = folder / f"{size}-{count}.jsonl"
    with table.open("w", encoding="utf-8") as file:
        for number in range(count):
            item = {"id": f"photo-{number}", "uri": paths[number % len(paths)]}
            file.write(json.dumps(item) + "\n")
    return Source(name=size, path=table, count=count)


def caption_source(folder: Path, count: int) -> Source:
    """Return a file of captions in a folder."""
    path = folder / f"captions-{count}.jsonl"
    write_captions(path, count)
    return Source(name=CAPTIONS, path=path, count=count)
