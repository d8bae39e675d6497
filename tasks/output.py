"""The output folder of a worker: messages may name datasets inside it, no others."""

from __future__ import annotations

from pathlib import Path, PurePath

from clipfleet.errors import MessageError, UsageError
from storage.filesystem import local_path


def dataset_root(output: str, dataset: str) -> str:
    """Return the absolute path, symbolic links resolved, of a dataset that a message names.

    A relative path is one inside `output`.

    Raises:
        MessageError: It is no local path, has `..` in it, or leads out of `output`.
    """
    if ".." in PurePath(dataset).parts:
        raise MessageError(f"dataset {dataset!r} has '..' in it: name it without")
    try:
        place = local_path(dataset) if "://" in dataset else dataset
        root = Path(output, place).resolve()
        allowed = Path(output).resolve()
    except (UsageError, ValueError, OSError, RuntimeError) as error:
        raise MessageError(f"dataset {dataset!r} is no usable path: {error}") from error
    if not dataset or not root.is_relative_to(allowed):
        raise MessageError(
            f"dataset {dataset!r} is not inside this worker's output folder {output}: start a "
            "worker with an --output that contains it"
        )
    return str(root)
