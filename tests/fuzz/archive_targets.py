"""The targets of archives: their bytes, and the URLs of pictures inside files."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path

from clipfleet.architectures import Tower
from clipfleet.errors import ClipfleetError
from clipfleet.storage.filesystem.members import (
    Base64Text,
    ParquetPicture,
    TarMember,
    TgzMember,
    ZipMember,
    parse_member,
)
from clipfleet.storage.sources.open_source import open_source
from clipfleet.workers.images.read import read_bytes
from tests.fuzz.target import Make, Target, rows

_TOWERS: tuple[Tower, ...] = ("img", "txt")
_FILES = {"a.jpg": b"picture" * 9, "a.txt": b"text", f"{'b' * 120}.png": b"", "c.json": b"{}"}
_MAX_BYTES = 1 << 20


def archive(kind: str, folder: Path) -> Target:
    """An archive, of which all items are read."""
    path = folder / f"a.{kind}"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        for tower in _TOWERS:
            for uri in _uris(path, tower):
                with rows():
                    read_bytes(uri, _MAX_BYTES)

    tars = tuple(_tar(form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    seeds = {
        "tar": tars,
        "tgz": tuple(map(gzip.compress, tars)),
        "zip": tuple(_zip(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)),
    }
    return Target(run=run, seeds=seeds[kind])


def _uris(path: Path, tower: Tower) -> list[str]:
    uris = []
    try:
        for item in open_source(str(path), tower=tower):
            item.id.encode()  # it will be a row
            uris += [item.uri] if item.uri else []
    except ClipfleetError as error:
        str(error)
    return uris


def _tar(form: int) -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in _FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return file.getvalue()


def _zip(method: int) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in _FILES.items():
            archive.writestr(name, data)
    return file.getvalue()


def member(folder: Path) -> Target:
    """The URL of a picture inside a file."""
    path = folder / "a"
    path.write_bytes(bytes(2000))
    numbers = {"offset": 600, "size": 9}
    header, picture = zlib.crc32(bytes(512)), zlib.crc32(bytes(9))
    members = (
        TarMember(path=str(path), header=header, **numbers),
        TgzMember(path=str(path), header=1, **numbers),
        ZipMember(path=str(path), method="stored", crc32=picture, **numbers),
        ZipMember(path=str(path), method="deflate", crc32=1, **numbers),
        Base64Text(path=str(path), crc32=picture, **numbers),
        ParquetPicture(path=str(path), column="a.b", row=1, footer=zlib.crc32(bytes(8))),
    )

    def run(data: bytes) -> None:
        uri = data.decode(errors="surrogateescape")
        with suppress(ValueError):
            found = parse_member(uri)
            assert found is None or found.uri == uri
        with rows():
            read_bytes(uri, _MAX_BYTES, [str(folder)])

    return Target(run=run, seeds=tuple(each.uri.encode() for each in members))


ARCHIVE_TARGETS: dict[str, Make] = {
    **{kind: partial(archive, kind) for kind in ("tar", "tgz", "zip")},
    "member": member,
}
