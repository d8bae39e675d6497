"""Pictures out of the guide's data into files, which decoders can read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from clipfleet.atomic_write import atomic_write
from clipfleet.errors import UsageError
from clipfleet.retrieval.muge.pictures import read_pictures, size_bytes

TABLE = "pictures.jsonl"  # in the folder: the id and the path of each picture


def unpack(source: Path, folder: Path) -> Path:
    """Write the pictures of a TSV file or an LMDB folder to files; return the table of them.

    The bytes are the source's, one picture is in memory at a time, and a picture that is there
    is not written again. The table is written last, in the source's order.

    Raises:
        SourceError: The source has another form.
        UsageError: The disk has no room, or an id has two pictures, in the source or the folder.
        DependencyError: The package for LMDB is not installed.
    """
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    if not (folder / TABLE).exists():
        _check_room(source, folder)
    with atomic_write(folder / TABLE) as part, part.open("w", encoding="utf-8") as table:
        for id_, picture in read_pictures(source):
            _write(files / id_, picture)
            table.write(json.dumps({"id": id_, "path": f"files/{id_}"}) + "\n")
    return folder / TABLE


def _check_room(source: Path, folder: Path) -> None:
    needed, free = size_bytes(source), shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"the pictures of {source} take about {needed / 1e9:.1f} GB as files, and {folder} has "
            f"{free / 1e9:.1f} GB free: name a folder on another disk"
        )


def _write(path: Path, picture: bytes) -> None:
    """Write a picture's file; keep it if it is there.

    Raises:
        UsageError: The file has another content: its vector may be of that content.
    """
    if path.exists():
        if path.read_bytes() != picture:
            raise UsageError(
                f"{path} is another picture than one of the source with this id: if the source "
                "has changed, name a new folder; otherwise it gives the id twice"
            )
        return
    part = path.with_name(f".{path.name}")
    part.write_bytes(picture)
    os.replace(part, path)
