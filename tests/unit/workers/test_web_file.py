"""Members of files on web servers that are read in their order: rows, and tars in gzip."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Mapping
from email.message import Message

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfleet.error_codes import HTTP_ERROR, SERVER_BUSY
from clipfleet.errors import ItemError
from clipfleet.settings import Settings
from clipfleet.storage.archives.tar import TarFile, TarReader
from clipfleet.storage.filesystem.members import ParquetPicture, TgzMember
from clipfleet.storage.filesystem.parquet_columns import footer_crc32
from clipfleet.workers.http.fetcher import Answer, Fetcher, FetchLimits
from clipfleet.workers.http.object_fetcher import ObjectFetcher
from clipfleet.workers.http.policy import UrlPolicy
from clipfleet.workers.http.remote_fetcher import RemoteFetcher
from clipfleet.workers.images.read import is_fetched_ahead

PICTURES = [bytes([n]) * 2000 for n in range(4)]
LIMIT = 1 << 20


class Server(Fetcher):
    """Answers ranges of one file."""

    def __init__(self, file: bytes, *, etag: str = '"1"', length: str | None = None) -> None:
        super().__init__(UrlPolicy.from_settings(Settings()), FetchLimits())
        self.file = file
        self.etag = etag
        self.length = length or str(len(file))
        self.asked: list[Mapping[str, str]] = []
        self.fails = 0

    def ask(
        self,
        url: str,
        room: Callable[[int], float] = lambda _: 0.0,
        *,
        span: tuple[int, int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        self.asked.append(headers or {})
        assert span is not None
        if self.fails and span != (0, 1):
            self.fails -= 1
            raise ItemError(SERVER_BUSY, f"{url} is busy")
        said = Message()
        said["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{self.length}"
        said["ETag"] = self.etag
        return Answer(self.file[slice(*span)], said)


def rows(url: str) -> tuple[bytes, list[str]]:
    file = io.BytesIO()
    pq.write_table(pa.table({"image": PICTURES}), file, row_group_size=2)
    crc = footer_crc32(file)
    uris = [
        ParquetPicture(path=url, column="image", row=n, footer=crc).uri
        for n in range(1, len(PICTURES) + 1)
    ]
    return file.getvalue(), uris


def compressed_tar(url: str) -> tuple[bytes, list[str]]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for n, data in enumerate(PICTURES):
            info = tarfile.TarInfo(f"{n}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = [one for one in TarReader(file) if isinstance(one, TarFile)]
    uris = [
        TgzMember(path=url, offset=one.offset, size=one.size, header=one.header).uri
        for one in found
    ]
    return gzip.compress(file.getvalue()), uris


KINDS = pytest.mark.parametrize("made", [rows, compressed_tar])


def fetcher_of(server: Server) -> RemoteFetcher:
    return RemoteFetcher(server, ObjectFetcher(FetchLimits(), ()), max_bytes=LIMIT)


@KINDS
def test_members_are_read_in_order_and_a_failure_begins_again(
    made: Callable[[str], tuple[bytes, list[str]]],
) -> None:
    file, uris = made("https://host/1/a")
    server = Server(file)
    fetcher = fetcher_of(server)
    assert not any(map(is_fetched_ahead, uris))
    server.fails = 1
    with pytest.raises(ItemError, match="is busy") as caught:
        fetcher.fetch(uris[0])
    assert caught.value.code == SERVER_BUSY
    assert [fetcher.fetch(uri) for uri in uris] == PICTURES
    asked = len(server.asked)
    assert fetcher.fetch(uris[3]) == PICTURES[3]
    assert len(server.asked) <= asked + 1  # it keeps the file open
    assert {"If-Match": '"1"'} in server.asked


@KINDS
def test_a_server_that_says_no_length_is_refused(
    made: Callable[[str], tuple[bytes, list[str]]],
) -> None:
    file, uris = made("https://host/2/a")
    with pytest.raises(ItemError, match="does not say how long it is") as caught:
        fetcher_of(Server(file, length="*")).fetch(uris[0])
    assert caught.value.code == HTTP_ERROR


def test_a_weak_etag_is_not_sent_back() -> None:
    file, uris = compressed_tar("https://host/3/a")
    server = Server(file, etag='W/"1"')
    assert fetcher_of(server).fetch(uris[0]) == PICTURES[0]
    assert server.asked == [{}, {}]
