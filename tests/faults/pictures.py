"""Pictures, some of them poisoned: `poison/sitecustomize.py` says what those do."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from clipfleet.items import Item

_POISON_FOLDER = Path(__file__).parent / "poison"
_ROOT = Path(__file__).parents[2]


def poisoned_environment(marks: Path) -> dict[str, str]:
    """Return what a process has in its environment for poisoned pictures to work on it.

    A process that a picture holds says so in the folder `marks`. Decoders get variables of Python.
    """
    return {"PYTHONPATH": f"{_POISON_FOLDER}{os.pathsep}{_ROOT}", "PYTHON_POISON_MARKS": str(marks)}


def held_processes(marks: Path) -> list[int]:
    """Return the processes that a picture has held so far."""
    return [int(path.name.partition("-")[2]) for path in marks.glob("hangs-*")]


def picture_bytes(seed: int, poison: str = "") -> bytes:
    """Return a sound PNG, all of it before the poison."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue() + poison.encode()


def write_pictures(folder: Path, count: int, poisons: dict[int, str]) -> list[Item]:
    """Write pictures, those at some positions poisoned, and return them as items."""
    folder.mkdir()
    items = []
    for n in range(count):
        path = folder / f"{n:04d}.png"
        path.write_bytes(picture_bytes(n, poisons.get(n, "")))
        items.append(Item(id=path.name, uri=str(path)))
    return items
