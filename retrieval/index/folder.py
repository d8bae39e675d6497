"""The folder of an index: its names, its lock, and files that appear whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipfleet.errors import StorageError, UsageError
from clipfleet.retrieval.index.card import CANDIDATE_NAME, CARD_NAME, IndexCard
from clipfleet.storage.filesystem.local import TEMPORARY_FOLDER, LocalFilesystem
from clipfleet.storage.filesystem.locations import in_object_store, local_path

PLAN_NAME = "build.json"
REPORT_NAME = "report.html"
SHARDS_FOLDER = "shards"
VECTORS_NAME, ITEMS_NAME, RECORD_NAME = "vectors.f16", "items.arrow", "record.json"
SHARD_CODES_NAME = "codes.faiss"  # until they are merged
_LOCK_NAME = ".lock"


def index_folder(path: str | Path) -> Path:
    """Return the folder of an index: a folder of this machine, or of a network disk.

    Raises:
        UsageError: It is an object store's, whose files cannot be mapped into memory.
    """
    if in_object_store(str(path)):
        raise UsageError(
            f"{path} is in an object store, and a search maps files of the index into memory: "
            "choose a folder; the dataset may stay in the store"
        )
    return Path(local_path(str(path)))


def shard_folder(folder: Path, name: str) -> Path:
    return folder / SHARDS_FOLDER / name


def codes_name(generation: int) -> str:
    """Return the name of the codes of all shards; a new file has a new name."""
    return f"codes-{generation:05d}.faiss"


def trained_name(generation: int) -> str:
    return f"trained-{generation:05d}.faiss"


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Let one process build an index; a killed builder's lock is free, and its rest removed.

    Raises:
        UsageError: Another process builds it, or the folder has other files.
        StorageError: The folder cannot be made.
    """
    _refuse_foreign_files(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"cannot write into {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process builds the index {folder}: wait for it, or end it"
            ) from None
        shutil.rmtree(folder / TEMPORARY_FOLDER, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


def _refuse_foreign_files(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: choose another folder for the index")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and not names & {CARD_NAME, PLAN_NAME, _LOCK_NAME}:
        raise UsageError(
            f"{folder} is not empty and has no index (it holds {min(names)!r}): choose an empty or "
            "new folder"
        )


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which gets the name `path` when it is on the disk.

    Raises:
        StorageError: The disk refuses a write.
    """
    temporary = path.parent / TEMPORARY_FOLDER / f"{path.name}-{uuid.uuid4().hex}"
    temporary.parent.mkdir(exist_ok=True)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; free some space, and run again"
        ) from error
    finally:
        with suppress(OSError):  # it was renamed, or the disk's error is raised
            temporary.unlink()


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(folder: Path, name: str, text: str) -> None:
    """Replace a small file of the index."""
    LocalFilesystem(str(folder)).replace(name, text.encode())


def publish(folder: Path, card: IndexCard) -> None:
    """Make a card the index's, and remove what it does not name.

    A reader sees the old index or the new one. It keeps the files that it has mapped.
    """
    write_text(folder, CARD_NAME, card.to_json())
    for name in (CANDIDATE_NAME, PLAN_NAME):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("*.faiss"):
        if path.name not in {card.codes, card.trained}:
            path.unlink(missing_ok=True)
    kept = {shard.name for shard in card.shards}
    for path in (folder / SHARDS_FOLDER).iterdir():
        if path.name not in kept:
            shutil.rmtree(path)
        else:
            (path / SHARD_CODES_NAME).unlink(missing_ok=True)
