"""The file system of a dataset whose parts may lie in packs: its callers see parts alone.

A part in a pack is read, listed, replaced and deleted by its own path. A part that lies beside a
pack with the same part counts: it is newer.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from clipfleet.errors import StorageError
from clipfleet.storage.filesystem.base import Filesystem, Names
from clipfleet.storage.filesystem.s3_file import ObjectFile
from clipfleet.storage.packs.pack import Member, PackBuilder, is_pack_name, read_members

MARK_PATH = "packs.json"  # the dataset has, or had, packs; the lock of those who change parts
MARK = b'{"format": 1}\n'

_PART = ".parquet"
_BUFFER_BYTES = 256 << 10

Lock = Callable[[str], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """A pack's file name and its parts; None: its footer is damaged."""

    file_name: str
    members: tuple[Member, ...] | None


class PackedParts:
    """A `Filesystem` in which the parts in packs stand in `folder` as files of their own.

    `lock(path)` excludes others who change parts on the same disk. An object store has none: there,
    no pack is made or changed.
    """

    def __init__(self, inner: Filesystem, folder: str, *, lock: Lock | None = None) -> None:
        self.inner = inner
        self._folder = folder
        self._lock = lock
        self._marked: bool | None = None
        self._pack_of: dict[str, str] = {}  # by the name of the part
        self._known: dict[str, tuple[tuple[int, ...], tuple[Member, ...] | None]] = {}

    @property
    def on_disk(self) -> bool:
        """Whether parts can be put into packs."""
        return self._lock is not None

    def packs(self) -> Sequence[Pack]:
        """Return the packs in the order of their names; those with damaged footers too."""
        return self._packs_of(self.inner.list(self._folder)) if self._has_packs() else []

    def locked(self, path: str = MARK_PATH) -> contextlib.AbstractContextManager[None]:
        """Hold a file's lock; by default, that of those who replace, delete or pack parts."""
        if self._lock is None:
            raise StorageError(
                "parts in packs cannot be changed in an object store: copy the dataset to a disk, "
                "and run again there"
            )
        return self._lock(path)

    def read(self, path: str) -> bytes:
        try:
            return self.inner.read(path)
        except FileNotFoundError:
            with self._open_member(path) as file:
                return file.read()

    def open(self, path: str) -> BinaryIO:
        try:
            return self.inner.open(path)
        except FileNotFoundError:
            return self._open_member(path)

    def create(self, path: str, data: bytes | memoryview) -> bool:
        if self._find(path) is not None or not self.inner.create(path, data):
            return False
        if self._find(path) is not None:  # it was put into a pack after the first look
            self.inner.delete(path)
            return False
        return True

    def replace(self, path: str, data: bytes | memoryview) -> None:
        if self._name(path) is None or not self._has_packs():
            self.inner.replace(path, data)
            return
        with self.locked():
            pack = None if self.inner.exists(path) else self._find(path)
            if pack is None:
                self.inner.replace(path, data)
            else:
                self._write_again(pack, {self._name(path): data})

    def list(self, folder: str) -> Names:
        if folder != self._folder:
            return self.inner.list(folder)
        names = self.inner.list(folder)
        if not any(map(is_pack_name, names)):
            return names
        packs = self.packs()
        found = {name for name in names if not is_pack_name(name)}
        found.update(pack.file_name for pack in packs if pack.members is None)
        found.update(f"{m.name}{_PART}" for pack in packs for m in pack.members or ())
        return sorted(found)

    def exists(self, path: str) -> bool:
        return self.inner.exists(path) or self._find(path) is not None

    def delete(self, path: str) -> None:
        if self._name(path) is None or not self._has_packs():
            self.inner.delete(path)
            return
        with self.locked():
            self.inner.delete(path)
            pack = self._find(path)
            if pack is not None:
                self._write_again(pack, {self._name(path): None})

    def tidy(self) -> None:
        self.inner.tidy()

    def _has_packs(self) -> bool:
        # On a disk the first pack may be made at any time, in an object store never.
        if not self._marked and not (self._marked is False and self._lock is None):
            self._marked = self.inner.exists(MARK_PATH)
        return bool(self._marked)

    def _name(self, path: str) -> str | None:
        """Return the name of the part at a path; None for other files."""
        folder, _, file_name = path.rpartition("/")
        if folder != self._folder or not file_name.endswith(_PART) or is_pack_name(file_name):
            return None
        return file_name.removesuffix(_PART)

    def _find(self, path: str) -> Pack | None:
        """Return the pack with the part at a path, if one has it."""
        name = self._name(path)
        if name is None:
            return None
        packs = (pack for pack in self.packs() if pack.members)
        return next((p for p in packs if any(m.name == name for m in p.members or ())), None)

    def _packs_of(self, names: Names) -> Sequence[Pack]:
        packs = []
        for file_name in filter(is_pack_name, names):
            try:
                file = self.inner.open(f"{self._folder}/{file_name}")
            except FileNotFoundError:  # another pack took its parts just now
                return self._packs_of(self.inner.list(self._folder))
            with file:
                packs.append(Pack(file_name=file_name, members=self._members(file_name, file)))
        return packs

    def _members(self, file_name: str, file: BinaryIO) -> tuple[Member, ...] | None:
        """Return the parts in an open pack; its footer is read when the file is another one."""
        identity = _identity(file)
        known = self._known.get(file_name)
        if known is not None and known[0] == identity:
            return known[1]
        try:
            members = read_members(file)
        except ValueError:
            members = None
        self._known[file_name] = (identity, members)
        self._pack_of.update((member.name, file_name) for member in members or ())
        return members

    def _open_member(self, path: str) -> BinaryIO:
        name = self._name(path)
        hint = self._pack_of.get(name or "")  # of an earlier look: the pack may be another by now
        found = self._member_file(hint, name) if hint else None
        if found is None:
            pack = self._find(path)
            found = self._member_file(pack.file_name, name) if pack else None
        return found or self.inner.open(path)  # it left its pack just now, or is missing

    def _member_file(self, file_name: str, name: str | None) -> BinaryIO | None:
        """Return the file of a part in a pack; None if the pack does not have it."""
        try:
            file = self.inner.open(f"{self._folder}/{file_name}")
        except FileNotFoundError:
            return None
        for member in self._members(file_name, file) or ():
            if member.name == name:
                return io.BufferedReader(_MemberFile(file, member), _BUFFER_BYTES)
        file.close()
        return None

    def _write_again(
        self, pack: Pack, changes: dict[str | None, bytes | memoryview | None]
    ) -> None:
        """Write a pack with other files for some of its parts, or without those of None."""
        path = f"{self._folder}/{pack.file_name}"
        old = memoryview(self.inner.read(path))
        builder, count = PackBuilder(), 0
        for member in pack.members or ():
            part = changes.get(member.name, old[member.offset : member.offset + member.size])
            if part is None:
                continue
            try:
                builder.add(member.name, part)
                count += 1
            except ValueError:  # damaged: it leaves the pack, which needs its footer
                self.inner.create(f"{self._folder}/{member.name}{_PART}", part)
        if count:
            self.inner.replace(path, memoryview(builder.finish()))
        else:
            self.inner.delete(path)


class _MemberFile(ObjectFile):
    """The file of a part in an open pack; both are closed together."""

    def __init__(self, pack: BinaryIO, member: Member) -> None:
        super().__init__(member.size, self._fetch)
        self._pack = pack
        self._offset = member.offset

    def _fetch(self, start: int, end: int) -> bytes:
        self._pack.seek(self._offset + start)
        return self._pack.read(end - start)

    def close(self) -> None:
        self._pack.close()
        super().close()


def _identity(file: BinaryIO) -> tuple[int, ...]:
    """Return what tells an open file from a later one of the same name."""
    try:
        status = os.fstat(file.fileno())
    except io.UnsupportedOperation:  # an object; packs in object stores do not change
        return (file.seek(0, os.SEEK_END),)
    return status.st_ino, status.st_mtime_ns, status.st_size
