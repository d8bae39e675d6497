"""Access to datasets by name: messages may name only datasets in the worker's output folder."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePath

from clipfleet.architectures import TOWERS
from clipfleet.errors import MessageError, StorageError, UsageError
from clipfleet.messages import MAX_DATASET_LENGTH
from clipfleet.storage.filesystem.locations import (
    absolute,
    below,
    in_object_store,
    local_path,
    resolved,
)
from clipfleet.storage.filesystem.open_filesystem import STORE_TIMEOUT_S, open_filesystem
from clipfleet.storage.format.dataset import FOLDERS, single_items_name
from clipfleet.storage.format.dataset_info import INFO_PATH
from clipfleet.storage.format.discovery import find_datasets

_SHOWN_LENGTH = 100  # characters
_NAME_BYTES = 255  # of one file or folder, on Linux
_PATH_BYTES = 4096 - 256  # with room for the files in it
_WRONG_NAME = {errno.ELOOP, errno.ENAMETOOLONG}  # the name is wrong, whatever the disk holds


def dataset_root(output: str, dataset: str, *, store_timeout_s: float = STORE_TIMEOUT_S) -> str:
    """Return the location of a dataset that a message names, with symbolic links resolved.

    A relative path is one inside `output`.

    Raises:
        MessageError: The name is not a usable path, is too long, contains `..`, leads out of
            `output`, or lies inside another dataset.
        StorageError: The disk or the object store of `output` does not answer, or forbids a look.
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
    _check_location(root, allowed)
    _check_folders(root, allowed)
    return str(root)


def check_new_root(output: str, root: str, *, store_timeout_s: float = STORE_TIMEOUT_S) -> None:
    """Refuse a new dataset that would keep the items of another dataset out.

    `root` is as `dataset_root` returns it. An existing dataset, and one of those for items without
    a dataset's name, is never refused.

    Raises:
        MessageError: It is the output folder, or lies below a dataset for items without a name, or
            above an existing dataset.
        StorageError: The disk or the object store does not answer.
    """
    fs = open_filesystem(root, store_timeout_s=store_timeout_s)
    inside = PurePath(root).relative_to(resolved(output)).parts
    defaults = {single_items_name(tower) for tower in TOWERS}
    if fs.exists(INFO_PATH) or (len(inside) == 1 and inside[0] in defaults):
        return
    if not inside:
        raise MessageError(
            f"dataset {root} is this worker's output folder, which holds datasets: name a folder "
            "in it"
        )
    if inside[0] in defaults:
        raise MessageError(
            f"dataset {root} lies inside {inside[0]}, the dataset of items without a dataset's "
            "name: name a folder beside that"
        )
    others = find_datasets(root, store_timeout_s=store_timeout_s).roots if fs.list("") else []
    if others:
        raise MessageError(
            f"dataset {root} lies above the dataset {others[0]}: name that, or a folder beside it"
        )


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
        mode = _mode(folder)
        if mode is not None and not stat.S_ISDIR(mode):
            raise MessageError(f"dataset {root} is no folder: {folder} is a file")
        if folder != root and _mode(folder / INFO_PATH) is not None:
            raise _inside_another(root, folder)


def _mode(path: Path) -> int | None:
    """Return the mode of a file or folder; None if it does not exist.

    Raises:
        MessageError: The name is none that a disk could hold.
        StorageError: The disk does not tell: the message waits, because its name may be right.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in _WRONG_NAME:
            raise MessageError(f"dataset {path} is no usable path: {error.strerror}") from error
        raise StorageError(
            f"cannot look at {path}: {error.strerror}; give this user the right to it, or mend "
            "the disk"
        ) from error


def _check_folders(root: Path, allowed: Path) -> None:
    """Refuse a dataset whose own folders are symbolic links out of the output folder."""
    for name in FOLDERS:
        folder = Path(os.path.realpath(root / name))  # of a loop, it returns the path itself
        if not folder.is_relative_to(allowed):
            raise MessageError(
                f"{name}/ of dataset {root} is a symbolic link out of this worker's output folder "
                f"{allowed}: put the folder itself there"
            )
