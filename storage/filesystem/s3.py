"""A prefix of an S3 bucket as a file system on which the first writer wins.

`create` is a PUT with `If-None-Match: *`, which S3 and its kin refuse with 412 where there is an
object. The answer may be lost on its way, and the request repeated: so each writer leaves a
token in the object's metadata, and who is refused looks whether the object is its own.

Nothing is uploaded in several pieces: one PUT takes 5 GB, far more than a part has, and one
that is cut off leaves nothing behind, as S3's multipart uploads would.
"""

from __future__ import annotations

import io
import logging
import os
import random
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
)
from obstore.store import S3Store

from clipfleet.errors import StorageError, UsageError
from clipfleet.storage.filesystem.locations import split_object_url
from clipfleet.storage.filesystem.s3_errors import advice_on, is_worth_repeating, reason_of
from clipfleet.storage.filesystem.s3_file import ObjectFile

WHOLE_BYTES = 4 << 20  # an object so small is read in one request, a larger one where needed

_PATIENCE = 2  # times the timeout of one request: for so long it is tried again
_OWN_RETRIES = 2  # of the library, which hears no Ctrl-C meanwhile
_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 5.0
_BUFFER_BYTES = 256 << 10
_WRITER = "clipfleet-writer"  # the metadata that holds a writer's token
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")  # the first that is set

_BUCKET = "make the bucket, or name another"

log = logging.getLogger(__name__)

Names = list[str]
T = TypeVar("T")


class ObjectFilesystem:
    """The objects below `s3://bucket/prefix`; folders are nothing but beginnings of names.

    `timeout_s` is for one request; what fails by the store's fault is tried again for twice as
    long. Credentials, region and endpoint are where AWS's own tools look for them first: in the
    environment.
    """

    def __init__(self, root: str, *, timeout_s: float) -> None:
        self.root = root
        self._patience_s = _PATIENCE * timeout_s
        self._store = _open_store(root, _endpoint(), timeout_s)

    def read(self, path: str) -> bytes:
        key = self._key(path)
        return self._try("read", path, lambda: obstore.get(self._store, key).bytes().to_bytes())

    def open(self, path: str) -> BinaryIO:
        key = self._key(path)

        def begin() -> tuple[int, str | None, bytes | None]:
            found = obstore.get(self._store, key)
            size, etag = found.meta["size"], found.meta["e_tag"]
            return size, etag, found.bytes().to_bytes() if size <= WHOLE_BYTES else None

        def fetch(start: int, end: int) -> bytes:
            # Of the object that was opened: another may have been put in its place.
            of_it = {"range": (start, end), "if_match": etag}
            got = obstore.get(self._store, key, options=of_it)  # type: ignore[arg-type]
            return got.bytes().to_bytes()

        size, etag, whole = self._try("open", path, begin)
        if whole is not None:
            return io.BytesIO(whole)
        piecewise = ObjectFile(size, lambda *ends: self._try("read", path, lambda: fetch(*ends)))
        return io.BufferedReader(piecewise, _BUFFER_BYTES)

    def create(self, path: str, data: bytes | memoryview) -> bool:
        key, body, token = self._key(path), _bytes(data), uuid.uuid4().hex
        marked = {_WRITER: token}

        def write() -> bool:
            try:
                obstore.put(
                    self._store, key, body, mode="create", attributes=marked, use_multipart=False
                )
            except AlreadyExistsError as error:
                try:
                    return self._writer(key) == token
                except FileNotFoundError:  # two at the same moment may both be refused
                    raise GenericError(str(error)) from error
            return True

        return self._write(path, write)

    def replace(self, path: str, data: bytes | memoryview) -> None:
        key, body = self._key(path), _bytes(data)
        self._write(path, lambda: obstore.put(self._store, key, body, use_multipart=False))

    def list(self, folder: str) -> Names:
        found = self._list(folder)
        paths = [PurePosixPath(file["path"]) for file in found["objects"]]
        # Consoles mark a folder with an object that has its name, which is not in it.
        files = [path.name for path in paths if path != PurePosixPath(folder)]
        return sorted({*files, *_names(found)})

    def folders(self, folder: str) -> Names:
        """Return the sorted names of a folder's folders."""
        return sorted(_names(self._list(folder)))

    def exists(self, path: str) -> bool:
        key = self._key(path)
        try:
            self._try("look for", path, lambda: obstore.head(self._store, key))
        except FileNotFoundError:
            return False
        return True

    def delete(self, path: str) -> None:
        key = self._key(path)
        self._write(path, lambda: obstore.delete(self._store, key), action="delete")

    def tidy(self) -> None:
        """Nothing is left behind here: what was not uploaded whole is not there."""

    def _key(self, path: str) -> str:
        relative = PurePosixPath(path)
        if relative.is_absolute() or ".." in relative.parts:
            raise UsageError(f"path {path!r} leaves {self.root}")
        return path

    def _list(self, folder: str) -> Any:
        prefix = self._key(folder) or None
        return self._try("list", folder, lambda: obstore.list_with_delimiter(self._store, prefix))

    def _writer(self, key: str) -> str | None:
        found = obstore.get(self._store, key, options={"head": True})
        return found.attributes.get(_WRITER)

    def _write(self, path: str, call: Callable[[], T], *, action: str = "write") -> T:
        try:
            return self._try(action, path, call)
        except FileNotFoundError as error:  # to write, nothing needs to be there but the bucket
            raise self._error(action, path, error, _BUCKET) from error

    def _try(self, action: str, path: str, call: Callable[[], T]) -> T:
        """Call until it succeeds, fails by no fault of the store's, or patience ends."""
        ends_s, pause_s = time.monotonic() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                return call()
            except BaseError as error:
                told = self._error(action, path, error, advice_on(error))
                if not is_worth_repeating(error) or time.monotonic() + pause_s > ends_s:
                    raise told from error
                if pause_s == _FIRST_PAUSE_S:  # once
                    log.warning("%s; tried again for %g s at most", told, self._patience_s)
            time.sleep(pause_s * (0.5 + random.random() / 2))  # a fleet does not come back at once
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def _error(self, action: str, path: str, error: Exception, advice: str) -> StorageError:
        place = f"{self.root}/{path}" if path else self.root
        return StorageError(f"cannot {action} {place}: {reason_of(error)}; {advice}")


def _endpoint() -> str | None:
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)


@lru_cache(maxsize=64)  # each has connections of its own
def _open_store(root: str, endpoint: str | None, timeout_s: float) -> S3Store:
    bucket, prefix = split_object_url(root)
    timeout = timedelta(seconds=timeout_s)
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            config={"endpoint": endpoint} if endpoint else {},
            # Whoever writes http:// means it.
            client_options={
                "timeout": timeout,
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
            },
            retry_config={"max_retries": _OWN_RETRIES, "retry_timeout": timeout},
        )
    except (BaseError, ValueError) as error:
        raise UsageError(
            f"cannot use {root}: {reason_of(error)}; see that the AWS_… variables are right"
        ) from error


def _bytes(data: bytes | memoryview) -> memoryview:
    return memoryview(data).cast("B")  # pyarrow's are of signed bytes, which the library refuses


def _names(found: Any) -> Names:
    return [PurePosixPath(folder).name for folder in found["common_prefixes"]]
