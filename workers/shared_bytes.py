"""A few bytes of memory that a worker shares with its children, whenever these are started.

They have no name in a folder: nothing cleans them away under a worker that runs for weeks, and
a worker that is killed leaves nothing. A child finds them among its worker's open files.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def shared_with_children(variable: str, size: int) -> Iterator[mmap.mmap]:
    """Yield `size` zeros, which `opened` finds in children by an environment variable."""
    file = os.memfd_create(variable.lower())
    try:
        os.ftruncate(file, size)
        os.environ[variable] = f"/proc/{os.getpid()}/fd/{file}"
        yield mmap.mmap(file, size)
    finally:
        os.close(file)


def opened(variable: str, size: int) -> mmap.mmap:
    """Return the bytes that a worker shares with this process; its own where there is none."""
    path = os.environ.get(variable)
    if not path:
        return mmap.mmap(-1, size)
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), size)
