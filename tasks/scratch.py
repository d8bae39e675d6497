"""Scratch folders: temporary files of a process, which the next one removes after a kill.

The owner holds a lock on a file in its folder. The kernel releases the lock when the owner ends,
however it ends; the programs that it starts do not inherit the file.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "clipfleet-"
_OWNER = "owner"


@contextmanager
def scratch_folder(parent: str | None = None) -> Iterator[str]:
    """Yield a new folder in `parent`, by default the temporary folder; its mode is 0700.

    The folders of this user's killed runs are removed first.
    """
    _remove_abandoned(Path(parent or tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent) as folder:
        unlocked = Path(folder, f"{_OWNER}.new")
        with open(unlocked, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            unlocked.rename(Path(folder, _OWNER))  # a folder with this file and no lock is removed
            yield folder


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another run removed it, or its owner lives
            if folder.lstat().st_uid != os.getuid():
                continue
            descriptor = os.open(folder / _OWNER, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(descriptor)
