"""A file system in memory, with the behaviour of an object store, for tests."""

from __future__ import annotations

import io
from typing import BinaryIO


class MemoryFilesystem:
    """Files by their paths; folders are prefixes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, path: str) -> bytes:
        try:
            return self.files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def open(self, path: str) -> BinaryIO:
        return io.BytesIO(self.read(path))

    def create(self, path: str, data: bytes | memoryview) -> bool:
        if path in self.files:
            return False
        self.files[path] = bytes(data)
        return True

    def replace(self, path: str, data: bytes | memoryview) -> None:
        self.files[path] = bytes(data)

    def list(self, folder: str) -> list[str]:
        prefix = f"{folder}/" if folder else ""
        below = (path[len(prefix) :] for path in self.files if path.startswith(prefix))
        return sorted({path.partition("/")[0] for path in below})

    def exists(self, path: str) -> bool:
        return path in self.files

    def delete(self, path: str) -> None:
        self.files.pop(path, None)

    def tidy(self) -> None:
        """Do nothing: there are no temporary files."""
