"""A few bytes of memory that a worker shares with its children, whenever these are started.

They have no name in a folder: nothing cleans them away under a worker that runs for weeks, and
a worker that is killed leaves nothing. A child finds them among its worker's open files.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from clipfleet.errors import UsageError


@contextmanager
def shared_with_children(variable: str, size: int) -> Iterator[mmap.mmap]:
    """Yield `size` zeros, which `opened` finds in children by an environment variable.

    Raises:
        UsageError: This machine has no /proc.
    """
    file = os.memfd_create(variable.lower())
    try:
        os.ftruncate(file, size)
        os.environ[variable] = f"/proc/{os.getpid()}/fd/{file}"
        yield opened(variable, size)
    finally:
        os.environ.pop(variable, None)
        os.close(file)


def opened(variable: str, size: int) -> mmap.mmap:
    """Return the bytes that a worker shares with this process; its own where there is none.

    Raises:
        UsageError: This process may not open them.
    """
    path = os.environ.get(variable)
    if not path:
        return mmap.mmap(-1, size)
    try:
        with open(path, "r+b") as file:
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise UsageError(
            f"cannot open {path}, the memory that a worker shares with its children: "
            f"{error.strerror}; have /proc mounted, and let nothing keep a process from the "
            "open files of another one of its user (SELinux, AppArmor, a worker made undumpable)"
        ) from error
