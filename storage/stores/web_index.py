"""Folders of web servers: the pages on which servers list a folder's files, as people see them.

Apache, Caddy, nginx and Python's `http.server` write a link for each file and subfolder, relative
to the page or with its whole path, and end that of a subfolder with `/`. Their links to sort a page
have a query, and those to the folder above lead out of it.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from http import HTTPStatus
from http.client import HTTPException
from ssl import SSLCertVerificationError
from urllib.error import HTTPError
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit
from urllib.request import Request, urlopen

from clipfleet import __version__
from clipfleet.storage.filesystem.open_filesystem import STORE_TIMEOUT_S
from clipfleet.storage.filesystem.remote import Place
from clipfleet.storage.stores.failures import rights_advice

_HEADERS = {"User-Agent": f"clipfleet/{__version__}", "Accept": "text/html"}
_PIECE_BYTES = 1 << 16
_PATIENCE_S = 2 * STORE_TIMEOUT_S
_MAX_FOLDERS = 32  # in one another: a link to a folder above it would have no end
_NAME = re.compile(r"[^./:?#\\][^/:?#\\]*/?")  # relative, without a query
_ABOVE = ("..", "../")
_NO_NAMES = ("", ".", "..")
_TITLES = ("index of", "directory listing for")
_HTML = ("text/html", "application/xhtml+xml")
_BUSY = frozenset({408, 425, 429})  # and 5xx
_DENIED = frozenset({401, 403})
_GONE = frozenset({404, 410})


def web_files(place: Place) -> Iterator[str]:
    """Yield the paths below a folder of all files that its pages and those below list.

    They are percent-encoded, and in the order of whole paths.

    Raises:
        OSError: A server does not answer; PermissionError: it refuses; FileNotFoundError: there is
            no such folder; NotADirectoryError: a page lists no files. `filename` is the folder's
            URL.
    """
    folders = [iter(_entries(place.url, ""))]
    while folders:
        path = next(folders[-1], None)
        if path is None:
            folders.pop()
        elif not path.endswith("/"):
            yield path
        elif len(folders) < _MAX_FOLDERS:
            folders.append(iter(_entries(place.url, path)))
        else:
            reason = f"more than {_MAX_FOLDERS} folders in one another: is one a link to another?"
            raise OSError(errno.ELOOP, reason, f"{place.url}/{path}")


def _entries(root: str, folder: str) -> list[str]:
    """Return the paths below `root` of the files and subfolders of a folder, sorted."""
    url = f"{root}/{folder}"
    return [f"{folder}{name}" for name in sorted(_listed(url, url.rstrip("/")))]


def _listed(url: str, name: str) -> set[str]:
    """Return the names that the page at `url` lists; `name` is that of the folder in errors."""
    from clipfleet.storage.filesystem.repeat import repeated

    def read() -> set[str] | None:
        with urlopen(Request(url, headers=_HEADERS), timeout=STORE_TIMEOUT_S) as answer:  # noqa: S310 - http(s)
            if answer.headers.get_content_type() not in _HTML:
                return None
            return listed_names(answer.geturl(), iter(lambda: answer.read(_PIECE_BYTES), b""))

    names = repeated(
        read,
        patience_s=_PATIENCE_S,
        failure=lambda error: _failure(error, name),
        errors=(OSError, HTTPException),
        is_worth=_is_worth_repeating,
    )
    if names is None:
        reason = (
            "its page is no index of its files: turn the server's index on, or name a table or an "
            "archive"
        )
        raise OSError(errno.ENOTDIR, reason, name)
    return names


def listed_names(url: str, page: Iterable[bytes]) -> set[str] | None:
    """Return the names of the files and subfolders that the page of a folder at `url` links to.

    They are percent-encoded in one form; those of subfolders end with `/`. None if the page is no
    index.
    """
    reader = _PageReader(url)
    # Surrogates keep bytes that are not UTF-8 as they are.
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    try:
        for piece in page:
            reader.feed(decoder.decode(piece))
        reader.close()
    except AssertionError:  # what html.parser raises for `<![` of another kind
        return None
    return reader.names if reader.is_index else None


class _PageReader(HTMLParser):
    """Collects the names in the links of a page."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._names_above = False
        self._title = ""
        self._url = url
        target = urlsplit(url)
        self._host = target.netloc
        self._folder = _one_form(target.path)
        self._in_title = False

    @property
    def is_index(self) -> bool:
        """Whether the page lists files, or says that it lists those of an empty folder."""
        is_named = self._title.strip().lower().startswith(_TITLES)
        return bool(self.names) or self._names_above or is_named

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Read a link."""
        self._in_title = tag == "title"
        href = dict(attrs).get("href")
        if tag != "a" or not href:
            return
        self._names_above |= href in _ABOVE
        name = self._name(href.strip())
        if name.rstrip("/") not in _NO_NAMES:
            self.names.add(name)

    def _name(self, href: str) -> str:
        """Return the name of the file or subfolder that a link names; "" if it names none."""
        if _NAME.fullmatch(href):  # most links; the others take longer
            return _one_form(href)
        try:
            target = urlsplit(urljoin(self._url, href))
        except ValueError:  # such as of a bracket that is not closed
            return ""
        path = _one_form(target.path)
        if target.query or target.netloc != self._host or not path.startswith(self._folder):
            return ""
        name = path[len(self._folder) :]
        return "" if "/" in name[:-1] else name

    def handle_endtag(self, tag: str) -> None:
        """Leave the title."""
        self._in_title = self._in_title and tag != "title"

    def handle_data(self, data: str) -> None:
        """Read the title."""
        if self._in_title:
            self._title += data


def _one_form(path: str) -> str:
    """Return a path with one form of percent-encoding; an encoded `/` stays one."""
    parts = path.split("/")
    return "/".join(quote(unquote_to_bytes(os.fsencode(part)), safe="") for part in parts)


def _is_worth_repeating(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        return error.code in _BUSY or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR
    return not isinstance(getattr(error, "reason", None), SSLCertVerificationError)


def _failure(error: Exception, url: str) -> OSError:
    if not isinstance(error, HTTPError):
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return OSError(errno.EIO, f"its server gives no list: {reason}", url)
    reason = f"its server answers {error.code}"
    if error.code in _DENIED:
        return PermissionError(errno.EACCES, f"{reason}; {rights_advice('https')}", url)
    if error.code in _GONE:
        return FileNotFoundError(errno.ENOENT, reason, url)
    return OSError(errno.EIO, reason, url)
