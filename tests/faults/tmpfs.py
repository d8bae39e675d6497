"""A small file system of a test's own, which may be full, read-only, or gone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.support import wait_until

_BALLAST = "ballast"


class Tmpfs:
    """A mounted tmpfs of some bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fill(self) -> None:
        """Leave no room for a part; workers that write meanwhile get some of it."""
        with open(self._folder / _BALLAST, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def empty(self) -> None:
        """Give the room back."""
        (self._folder / _BALLAST).unlink()

    def make_read_only(self) -> None:
        """Let nobody write; waits for files that are being written."""
        wait_until(lambda: self._remounts("ro"), what="read-only")

    def make_writable(self) -> None:
        assert self._remounts("rw")

    def _remounts(self, mode: str) -> bool:
        done = as_root("mount", "-o", f"remount,{mode}", str(self._folder))
        return done.returncode == 0


@contextmanager
def mounted_tmpfs(folder: Path, size_bytes: int) -> Iterator[Tmpfs]:
    """Mount a tmpfs over a folder; the test is skipped where this user may not."""
    owner = f"uid={os.getuid()},gid={os.getgid()},mode=755"
    done = as_root("mount", "-t", "tmpfs", "-o", f"size={size_bytes},{owner}", "tmpfs", str(folder))
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Tmpfs(folder)
    finally:
        as_root("umount", "--lazy", str(folder))


def as_root(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as root, without asking for a password."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    try:
        return subprocess.run([*sudo, *command], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:  # no sudo, or no mount
        return subprocess.CompletedProcess(command, 127, "", str(error))
