"""Tar shards: the pictures of WebDataset and img2dataset, and their captions."""

from __future__ import annotations

import gzip
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from clipfleet.items import Item
from clipfleet.storage.archives.captions import (
    CAPTION_EXTENSIONS,
    MAX_CAPTION_BYTES,
    caption_of,
)
from clipfleet.storage.archives.files import TAR_ENDINGS, Archive
from clipfleet.storage.archives.img2dataset import Downloads, read_downloads
from clipfleet.storage.archives.source import (
    ArchiveSource,
    Located,
    faulty,
    inner_path,
    item_of,
)
from clipfleet.storage.archives.tar import TarDamage, TarFile, TarReader
from clipfleet.storage.filesystem.members import TarMember, TgzMember
from clipfleet.storage.skipped import count_skipped, extension_of
from clipfleet.storage.stores.files import open_file

NO_CAPTION = "no caption"
NOT_REGULAR = "link or device"

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(kw_only=True, slots=True)
class _Shard:
    """A tar that is read: `downloads` are those of img2dataset, if it made the tar."""

    archive: Archive
    kind: type[TarMember]
    downloads: Downloads | None

    def place(self, inner: str) -> str:
        """Return where a file is, for messages."""
        return f"{self.archive.file_name}, {inner}"

    def id_of(self, inner: str) -> str:
        """Return the id of the picture or caption at a path in the tar."""
        stem = posixpath.splitext(inner)[0]
        return stem if self.downloads is not None else f"{self.archive.name}/{stem}"


@dataclass(kw_only=True, slots=True)
class _Sample:
    """Files of one name that follow each other, but for their extensions."""

    id: str = ""
    place: str = ""
    has_picture: bool = False
    texts: dict[str, bytes] = field(default_factory=dict)
    fault: str = ""


class TarSource(ArchiveSource):
    """The pictures, or the captions, of tar files, plain or in gzip.

    A picture's id is its path in the tar without its extension, after the tar's name; of
    img2dataset's shards it is the key alone. The caption of a sample has the id of its picture.
    """

    kind = "tar shards"
    endings = TAR_ENDINGS

    def _read(self, archive: Archive, skipped: dict[str, int]) -> Located:
        with _opened(archive.path) as (file, kind):
            try:
                downloads = read_downloads(archive.path)
            except ValueError as error:
                yield self._lost(archive, str(error))
                return
            shard = _Shard(archive=archive, kind=kind, downloads=downloads)
            if self.tower == "img":
                yield from self._pictures(shard, TarReader(file), skipped)
            elif downloads is not None and downloads.has_captions:
                yield from self._downloaded_captions(shard, downloads, skipped)
            else:
                yield from self._captions(shard, TarReader(file), skipped)
            for status, count in (downloads.failed if downloads else {}).items():
                count_skipped(skipped, status, count)

    def _pictures(self, shard: _Shard, reader: TarReader, skipped: dict[str, int]) -> Located:
        awaited = set(shard.downloads.captions) if shard.downloads else set()
        for found in reader:
            if isinstance(found, TarDamage):
                yield self._damage(shard.archive, found)
                continue
            inner = inner_path(found.path)
            if not self._is_chosen(shard, found, inner, skipped):
                continue
            member = shard.kind(
                path=shard.archive.path, offset=found.offset, size=found.size, header=found.header
            )
            place, id_ = shard.place(inner), shard.id_of(inner)
            awaited.discard(id_)
            yield place, item_of(id_, member.uri, self.tower, place)
        for key in sorted(awaited):
            place = shard.place(key)
            yield place, faulty(key, f"{place}: it was downloaded, and is not in the tar", "img")

    def _is_chosen(
        self, shard: _Shard, found: TarFile, inner: str, skipped: dict[str, int]
    ) -> bool:
        """Return whether a file is a picture to read; count it if it is neither this nor a text."""
        if self.is_left_out(shard.archive, inner, skipped):
            return False
        if not found.is_regular:
            count_skipped(skipped, NOT_REGULAR)
            return False
        if self.is_picture(shard.archive, inner):
            return True
        if extension_of(inner) not in CAPTION_EXTENSIONS:
            count_skipped(skipped, self.filter.kind(posixpath.basename(inner)))
        return False

    def _downloaded_captions(
        self, shard: _Shard, downloads: Downloads, skipped: dict[str, int]
    ) -> Located:
        for key, caption in downloads.captions.items():
            if caption is None:
                count_skipped(skipped, NO_CAPTION)
            else:
                place = shard.place(key)
                yield place, item_of(key, caption, self.tower, place)

    def _captions(self, shard: _Shard, reader: TarReader, skipped: dict[str, int]) -> Located:
        sample = _Sample()
        for found in reader:
            if isinstance(found, TarDamage):
                yield self._damage(shard.archive, found)
                continue
            inner = inner_path(found.path)
            picture = self._is_chosen(shard, found, inner, skipped)
            extension = extension_of(inner)
            if not picture and (not found.is_regular or extension not in CAPTION_EXTENSIONS):
                continue
            if sample.id != (id_ := shard.id_of(inner)):
                yield from self._caption(sample, skipped)
                sample = _Sample(id=id_, place=shard.place(inner))
            if picture:
                sample.has_picture = True
            elif found.size > MAX_CAPTION_BYTES:
                sample.fault = (
                    f"its {extension} file has {found.size} bytes, too many for a caption"
                )
            else:
                sample.texts[extension] = reader.data(found)
                if len(sample.texts[extension]) < found.size:
                    sample.fault = f"its {extension} file is cut off or damaged"
        yield from self._caption(sample, skipped)

    def _caption(self, sample: _Sample, skipped: dict[str, int]) -> Located:
        try:
            if sample.fault:
                raise ValueError(sample.fault)
            text = caption_of(sample.texts)
        except ValueError as error:
            yield sample.place, faulty(sample.id, f"{sample.place}: {error}", self.tower)
            return
        if text is not None:
            yield sample.place, item_of(sample.id, text, self.tower, sample.place)
        elif sample.has_picture:
            count_skipped(skipped, NO_CAPTION)

    def _damage(self, archive: Archive, damage: TarDamage) -> tuple[str, Item]:
        return self._lost(archive, damage.reason, f", byte {damage.position}")

    def _lost(self, archive: Archive, reason: str, where: str = "") -> tuple[str, Item]:
        place = f"{archive.file_name}{where}"
        return place, faulty(place, f"{place}: {reason}", self.tower)


@contextmanager
def _opened(path: str) -> Iterator[tuple[BinaryIO, type[TarMember]]]:
    """Open a tar, unpacked if its bytes are gzip's, whatever its name."""
    with open_file(path) as file:
        if file.read(2) != _GZIP_MAGIC:
            yield file, TarMember
            return
        file.seek(0)
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield cast("BinaryIO", unpacked), TgzMember
