"""A new `parts/` folder takes the old one's place in one step, so that no reader sees a mix.

The new folder is made in `_compact/`. It holds new packs, and every other file of the old folder
under a second name (a hard link). A file in it, `.compacting`, lists the names of the old folder
that it stands for. What a worker adds to the old folder meanwhile is moved afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator

from clipfleet.errors import StorageError, UsageError
from clipfleet.storage.format.dataset import PARTS_FOLDER

FOLDER = "_compact"
NEW_FOLDER = f"{FOLDER}/{PARTS_FOLDER}"  # after the exchange, the old folder

_NAMES_FILE = ".compacting"  # readers of Parquet leave out names that begin with a dot
_AT_CWD = -100  # of fcntl.h: paths are relative to the working folder
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)


def check_exchange(root: str) -> None:
    """Exchange two empty folders of a dataset.

    Raises:
        UsageError: Its file system cannot do that in one step.
        StorageError: The disk refused.
    """
    probes = [os.path.join(root, FOLDER, name) for name in ("probe-1", "probe-2")]
    with _storage_errors(probes[0]):
        try:
            for probe in probes:
                os.makedirs(probe, exist_ok=True)
            _exchange(*probes)
        finally:
            for probe in probes:
                shutil.rmtree(probe, ignore_errors=True)


def put_in_place(root: str, *, packs: Iterable[str], replaced: Iterable[str]) -> None:
    """Let the new folder, which holds new packs, take the old one's place.

    `replaced` are the files of the old folder whose parts the packs have.

    Raises:
        StorageError: The disk refused, or a pack is gone; `finish_swap` finishes, or undoes, what
            was done.
    """
    old, new = os.path.join(root, PARTS_FOLDER), os.path.join(root, NEW_FOLDER)
    gone = set(replaced)
    with _storage_errors(new):
        for pack in packs:
            os.stat(os.path.join(new, pack))
        names = sorted(os.listdir(old))
        for name in names:
            if name not in gone and not os.path.isdir(os.path.join(old, name)):
                _link(os.path.join(old, name), os.path.join(new, name))
        known = [n for n in names if n in gone or os.path.lexists(os.path.join(new, n))]
        with open(os.path.join(new, _NAMES_FILE), "x", encoding="utf-8") as file:
            json.dump(known, file)
            file.flush()
            os.fsync(file.fileno())
        _sync(new)
        _exchange(new, old)
        _sync(root)
        _sync(os.path.dirname(new))
    finish_swap(root)


def finish_swap(root: str) -> None:
    """Finish what a process left that was killed while it put a new folder into place.

    Raises:
        StorageError: The disk refused; finishing again is safe.
    """
    live, other = os.path.join(root, PARTS_FOLDER), os.path.join(root, NEW_FOLDER)
    names_file = os.path.join(live, _NAMES_FILE)
    with _storage_errors(live):
        try:
            with open(names_file, encoding="utf-8") as file:
                known = set(json.load(file))
        except FileNotFoundError:  # not exchanged: what is there is half of a new folder
            pass
        else:
            if os.path.lexists(other):
                _move_rest(other, live, known)
            os.unlink(names_file)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(os.path.dirname(other))


def _move_rest(old: str, live: str, known: set[str]) -> None:
    """Move what the new folder does not stand for, and remove the old folder."""
    while True:
        for name in os.listdir(old):
            path = os.path.join(old, name)
            target = os.path.join(live, name)
            if name in known or os.path.lexists(target):
                os.unlink(path)
            else:
                os.rename(path, target)
        _sync(live)
        try:
            os.rmdir(old)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # a worker had found the folder before the exchange
                raise
        else:
            return


def _link(path: str, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # it was deleted just now
        os.link(path, name, follow_symlinks=False)


def _exchange(one: str, other: str) -> None:
    """Give each of two paths the other's name, in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        call = libc.renameat2
    except AttributeError:
        code = errno.ENOSYS
    else:
        paths = [os.fsencode(path) for path in (one, other)]
        if call(_AT_CWD, paths[0], _AT_CWD, paths[1], _EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise UsageError(
            f"the file system of {one} cannot exchange two folders in one step "
            f"({os.strerror(code)}), so readers could see vectors twice: copy the dataset to a "
            "local disk (ext4, XFS, Btrfs), and compact it there"
        )
    raise OSError(code, os.strerror(code), one)


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot compact {path}: {error.strerror or error}; run the same command again"
        ) from error
