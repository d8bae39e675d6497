"""Access to datasets by name: messages may name only datasets in the worker's output folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from clipfleet.errors import MessageError, UsageError
from clipfleet.messages import MAX_DATASET_LENGTH
from clipfleet.storage.filesystem.locations import (
    STORE_TIMEOUT_S,
    absolute,
    below,
    in_object_store,
    local_path,
    open_filesystem,
)
from clipfleet.storage.format.dataset import FOLDERS, INFO_PATH

_SHOWN_LENGTH = 100  # characters
_NAME_BYTES = 255  # of one file or folder, on Linux
_PATH_BYTES = 4096 - 256  # with room for the files in it


def dataset_root(output: str, dataset: str, *, store_timeout_s: float = STORE_TIMEOUT_S) -> str:
    """Return the location of a dataset that a message names, with symbolic links resolved.

    A relative path is one inside `output`.

    Raises:
        MessageError: The name is not a usable path, is too long, contains `..`, leads out of
            `output`, or lies inside another dataset.
        StorageError: The object store of `output` does not answer.
    """
    if len(dataset) > MAX_DATASET_LENGTH:
        raise MessageError(
            f"dataset {dataset[:_SHOWN_LENGTH]!r}… is named by {len(dataset)} characters: at most "
            f"{MAX_DATASET_LENGTH} are taken"
        )
    if ".." in PurePath(dataset).parts:
        raise MessageError(f"dataset {dataset!r} has '..' in it: name it without")
    if in_object_store(output):
        return _root_in_store(absolute(output), dataset, store_timeout_s)
    try:
        path = local_path(dataset) if "://" in dataset else dataset
        root = Path(output, path).resolve()
        allowed = Path(output).resolve()
    except (UsageError, ValueError, OSError, RuntimeError) as error:
        raise MessageError(f"dataset {dataset!r} is no usable path: {error}") from error
    if not dataset or not root.is_relative_to(allowed):
        raise _outside(output, dataset)
    try:
        _check_location(root, allowed)
        _check_folders(root, allowed)
    except PermissionError as error:
        raise MessageError(f"dataset {dataset!r} cannot be looked at: {error}") from error
    return str(root)


def _root_in_store(output: str, dataset: str, store_timeout_s: float) -> str:
    """Return the URL of a dataset below an output that is a URL."""
    relative = "://" not in dataset and not dataset.startswith("/")
    try:
        root = absolute(below(output, dataset) if relative else dataset)
    except (UsageError, ValueError) as error:
        # Without its name, which may contain a password.
        raise MessageError(f"the message's dataset is no usable location: {error}") from error
    if not dataset or f"{root}/"[: len(output) + 1] != f"{output}/":
        raise _outside(output, dataset)
    inside = root
    while inside != output:
        inside = inside.rpartition("/")[0]
        if open_filesystem(inside, store_timeout_s=store_timeout_s).exists(INFO_PATH):
            raise _inside_another(root, inside)
    return root


def _outside(output: str, dataset: str) -> MessageError:
    return MessageError(
        f"dataset {dataset!r} is not inside this worker's output folder {output}: start a "
        "worker with an --output that contains it"
    )


def _inside_another(root: object, other: object) -> MessageError:
    return MessageError(
        f"dataset {root} lies inside the dataset {other}: name that, or a folder beside it"
    )


def _check_location(root: Path, allowed: Path) -> None:
    """Refuse a dataset with an impossible path, or inside another dataset."""
    names = [len(os.fsencode(part)) for part in root.parts]
    if max(names) > _NAME_BYTES or sum(names) + len(names) > _PATH_BYTES:
        raise MessageError(
            f"dataset {str(root)[:_SHOWN_LENGTH]!r}… has a name in it of more than {_NAME_BYTES} "
            f"bytes, or more than {_PATH_BYTES} in all, which Linux does not open"
        )
    for folder in (root, *root.parents):
        if not folder.is_relative_to(allowed):
            return
        if folder.exists() and not folder.is_dir():
            raise MessageError(f"dataset {root} is no folder: {folder} is a file")
        if folder != root and (folder / INFO_PATH).exists():
            raise _inside_another(root, folder)


def _check_folders(root: Path, allowed: Path) -> None:
    """Refuse a dataset whose own folders are symbolic links out of the output folder."""
    for name in FOLDERS:
        folder = Path(os.path.realpath(root / name))  # of a loop, it returns the path itself
        if not folder.is_relative_to(allowed):
            raise MessageError(
                f"{name}/ of dataset {root} is a symbolic link out of this worker's output folder "
                f"{allowed}: put the folder itself there"
            )
