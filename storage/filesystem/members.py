"""Members: pictures inside files, such as archives, named by one URL each.

    tar:///data/00000.tar?offset=1536&size=20480&header=439041101
    tgz:///data/00000.tar.gz?offset=1536&size=20480&header=439041101
    zip:///data/photos.zip?offset=39&size=20480&method=deflate&crc32=439041101
    tar://s3://bucket/00000.tar?offset=1536&size=20480&header=439041101

The path of the file is percent-encoded, so a `?` begins the fields. A URL has all that is needed
to read the picture, and enough to notice that the file was written anew meanwhile. Each member has
one URL: any other form of it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import ClassVar
from urllib.parse import quote, unquote_to_bytes

from clipfleet.storage.filesystem.locations import local_path
from clipfleet.storage.filesystem.remote import is_remote, is_web

TAR_BLOCK_BYTES = 512  # of a tar's header, which is just before its data
ZIP_METHODS = ("stored", "deflate")

_MAX_OFFSET = 1 << 62
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """The base of all kinds: a picture inside the file at an absolute path.

    A kind has the fields of its URL, in their order, as integers and strings.

    Raises:
        ValueError: A value cannot be one.
    """

    path: str

    scheme: ClassVar[str]
    form: ClassVar[str]  # for messages

    def __post_init__(self) -> None:
        if "\0" in self.path or not (os.path.isabs(self.path) or is_remote(self.path)):
            raise ValueError(f"{self.path!r} is no absolute path or remote URL")
        for name in _names(self.scheme):
            value = getattr(self, name)
            if isinstance(value, int) and not 0 <= value < _MAX_OFFSET:
                raise ValueError(f"{name} is {value}: expected 0 to {_MAX_OFFSET - 1}")

    @property
    def uri(self) -> str:
        """The URL of the member."""
        values = [f"{name}={_quoted(getattr(self, name))}" for name in _names(self.scheme)]
        return f"{self.scheme}://{_quoted_path(self.path)}?{'&'.join(values)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember(Member):
    """A file in a tar: `size` bytes at `offset`, after a header with the CRC-32 `header`."""

    offset: int
    size: int
    header: int

    scheme: ClassVar[str] = "tar"
    form: ClassVar[str] = "tar:///file.tar?offset=1536&size=20480&header=439041101"

    def __post_init__(self) -> None:
        Member.__post_init__(self)
        if self.offset < TAR_BLOCK_BYTES:
            raise ValueError(f"offset is {self.offset}: a header of 512 bytes comes first")


@dataclass(frozen=True, kw_only=True, slots=True)
class TgzMember(TarMember):
    """A file in a tar that is compressed with gzip; `offset` is that in the tar."""

    scheme: ClassVar[str] = "tgz"
    form: ClassVar[str] = "tgz:///file.tar.gz?offset=1536&size=20480&header=439041101"


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipMember(Member):
    """A file in a zip archive: `size` bytes at `offset`, stored or deflated.

    `crc32` is the CRC-32 of the file's own bytes.
    """

    offset: int
    size: int
    method: str
    crc32: int

    scheme: ClassVar[str] = "zip"
    form: ClassVar[str] = "zip:///file.zip?offset=39&size=20480&method=deflate&crc32=439041101"

    def __post_init__(self) -> None:
        Member.__post_init__(self)
        if self.method not in ZIP_METHODS:
            raise ValueError(f"method is {self.method!r}: expected {' or '.join(ZIP_METHODS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetPicture(Member):
    """A picture in a Parquet file: the value of `column`, such as `image.bytes`, in a row from 1.

    `footer` is the CRC-32 of the file's footer.
    """

    column: str
    row: int
    footer: int

    scheme: ClassVar[str] = "parquet"
    form: ClassVar[str] = "parquet:///file.parquet?column=image.bytes&row=7&footer=439041101"

    def __post_init__(self) -> None:
        Member.__post_init__(self)
        if self.row < 1:
            raise ValueError(f"row is {self.row}: rows are counted from 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Base64Text(Member):
    """A picture as base64, `size` bytes of text at `offset`, in either alphabet.

    `crc32` is the CRC-32 of the text.
    """

    offset: int
    size: int
    crc32: int

    scheme: ClassVar[str] = "base64"
    form: ClassVar[str] = "base64:///file.tsv?offset=8&size=27308&crc32=439041101"


_KINDS: dict[str, type[Member]] = {
    kind.scheme: kind for kind in (TarMember, TgzMember, ZipMember, ParquetPicture, Base64Text)
}


def parse_member(uri: str) -> Member | None:
    """Return the member that a uri names; None if its scheme is none of a member.

    Raises:
        ValueError: It has the scheme of a member, and another form.
    """
    scheme, separator, rest = uri.partition("://")
    kind = _KINDS.get(scheme) if separator else None
    if kind is None:
        return None
    path, _, query = rest.partition("?")
    try:
        member = kind(path=_unquoted(path), **dict(_values(kind, query)))
        has_form = member.uri == uri
    except (TypeError, ValueError):
        has_form = False
    if not has_form:
        raise ValueError(f"{uri[:_SHOWN_CHARACTERS]!r} has not the form {kind.form}")
    return member


def is_member(uri: str) -> bool:
    """Return whether a uri has the scheme of a member."""
    scheme, separator, _ = uri.partition("://")
    return bool(separator) and scheme in _KINDS


def file_path(uri: str) -> str:
    """Return the path of the file that has the bytes of a uri: of a member, its archive.

    Raises:
        ValueError: It has the scheme of a member, and another form.
        UsageError: It names no file of this machine.
    """
    member = parse_member(uri)
    return local_path(uri) if member is None else member.path


def is_fetched(uri: str) -> bool:
    """Return whether the bytes of a uri come from elsewhere: from a store, or a web server."""
    return is_remote(_file_of(uri))


def is_web_uri(uri: str) -> bool:
    """Return whether the bytes of a uri come from a web server."""
    return is_web(_file_of(uri))


def _file_of(uri: str) -> str:
    """Return a uri, or the beginning of a member's file in it."""
    scheme, _, rest = uri.partition("://")
    return rest if scheme in _KINDS else uri


def member_prefixes(folder: str) -> Iterator[str]:
    """Yield the beginnings of the uris of all members below a folder, kind by kind."""
    for scheme in _KINDS:
        yield f"{scheme}://{_quoted_path(os.path.join(folder, ''))}"


def _values(kind: type[Member], query: str) -> Iterator[tuple[str, int | str]]:
    types = {field.name: field.type for field in fields(kind)}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        yield name, int(value) if types.get(name) == "int" else _unquoted(value)


@cache
def _names(scheme: str) -> tuple[str, ...]:
    """Return the names of the fields of a kind's URL."""
    return tuple(field.name for field in fields(_KINDS[scheme]) if field.name != "path")


def _quoted(value: int | str) -> str:
    return str(value) if isinstance(value, int) else quote(os.fsencode(value), safe="")


@lru_cache(maxsize=16)  # an archive has many members
def _quoted_path(path: str) -> str:
    return quote(os.fsencode(path), safe="/:@" if is_remote(path) else "/")


def _unquoted(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))
