"""A file of a web server, read in ranges from an allowed host."""

from __future__ import annotations

import io
import re
from typing import BinaryIO

from clipfleet.error_codes import HTTP_ERROR
from clipfleet.storage.filesystem.s3_file import ObjectFile
from clipfleet.workers.http.fetcher import Fetcher
from clipfleet.workers.item_errors import item_error, shown

_BUFFER_BYTES = 1 << 20  # of one request, when the file is read from its start to its end
_FIRST_BYTE = (0, 1)
_RANGE = re.compile(r"bytes 0-0/(\d{1,18})")  # with the size of the file


def open_web_file(fetcher: Fetcher, url: str) -> BinaryIO:
    """Open the file at a URL, seekable; another one in its place meanwhile is an error.

    Raises:
        ItemError: The URL is refused or was not fetched, or has no ranges; also of later reads.
    """
    answer = fetcher.ask(url, span=_FIRST_BYTE)
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None:
        reason = "its server does not say how long it is: download it"
        raise item_error(HTTP_ERROR, f"{shown(url)}: {reason}")
    etag = answer.headers.get("ETag", "")
    headers = {"If-Match": etag} if etag.startswith('"') else {}  # servers do not take back others

    def fetch(start: int, end: int) -> bytes:
        return fetcher.ask(url, span=(start, end), headers=headers).body

    return io.BufferedReader(ObjectFile(int(found[1]), fetch), _BUFFER_BYTES)
