"""The file system of a prefix of an S3 bucket.

`create` is a PUT with `If-None-Match: *`. A store refuses it with 412 if the object exists. The
answer may be lost, and the request repeated: so each writer stores a token in the object's
metadata, and a refused writer checks whether the object has its own token.

No object is uploaded in several pieces. One PUT takes 5 GB, and a part is far smaller; an
interrupted PUT leaves nothing behind, while a multipart upload would.
"""

from __future__ import annotations

import io
import os
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
from clipfleet.storage.filesystem.base import Names
from clipfleet.storage.filesystem.locations import split_object_url
from clipfleet.storage.filesystem.repeat import repeated
from clipfleet.storage.filesystem.s3_errors import advice_on, reason_of
from clipfleet.storage.filesystem.s3_file import ObjectFile

WHOLE_BYTES = 4 << 20  # an object up to this size is read in one request

_PATIENCE = 2  # requests are repeated for so many times the timeout of one
_OWN_RETRIES = 2  # of the library, which does not react to Ctrl-C meanwhile
_BUFFER_BYTES = 256 << 10
_WRITER = "clipfleet-writer"  # the metadata that holds a writer's token
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")  # the first that is set

_BUCKET = "create the bucket, or name another"

T = TypeVar("T")


class ObjectFilesystem:
    """The objects below `s3://bucket/prefix`; folders are only prefixes of keys.

    `timeout_s` is for one request; a request that fails by the store's fault is repeated for twice
    as long. Credentials, region and endpoint come from the environment, as in AWS's own tools.
    """

    def __init__(self, root: str, *, timeout_s: float) -> None:
        self.root = root
        self._patience_s = _PATIENCE * timeout_s
        self._store = open_s3(root, timeout_s=timeout_s)

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
            # Of the object that was opened: another may have replaced it.
            options = {"range": (start, end), "if_match": etag}
            got = obstore.get(self._store, key, options=options)  # type: ignore[arg-type]
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
                except FileNotFoundError:  # of two writers at the same moment, both may be refused
                    raise GenericError(str(error)) from error
            return True

        return self._write(path, write)

    def replace(self, path: str, data: bytes | memoryview) -> None:
        key, body = self._key(path), _bytes(data)
        self._write(path, lambda: obstore.put(self._store, key, body, use_multipart=False))

    def list(self, folder: str) -> Names:
        found = self._list(folder)
        paths = [PurePosixPath(file["path"]) for file in found["objects"]]
        # Consoles mark a folder by an object of the folder's name, which is not inside it.
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
        """Do nothing: an interrupted upload leaves no object."""

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
        except FileNotFoundError as error:  # only the bucket must exist before a write
            raise self._error(action, path, error, _BUCKET) from error

    def _try(self, action: str, path: str, call: Callable[[], T]) -> T:
        """Repeat a call until it succeeds, is refused for good, or takes too long."""
        return repeated(
            call,
            patience_s=self._patience_s,
            failure=lambda error: self._error(action, path, error, advice_on(error)),
        )

    def _error(self, action: str, path: str, error: Exception, advice: str) -> StorageError:
        location = f"{self.root}/{path}" if path else self.root
        return StorageError(f"cannot {action} {location}: {reason_of(error)}; {advice}")


def _endpoint() -> str | None:
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)


def open_s3(root: str, *, timeout_s: float, retries: int = _OWN_RETRIES) -> S3Store:
    """Return the store of an `s3://bucket/prefix`, as the environment says.

    Raises:
        UsageError: The environment has something that the store does not take.
    """
    return _open_store(root, _endpoint(), timeout_s, retries)


@lru_cache(maxsize=64)  # each has its own connections
def _open_store(root: str, endpoint: str | None, timeout_s: float, retries: int) -> S3Store:
    bucket, prefix = split_object_url(root)
    timeout = timedelta(seconds=timeout_s)
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            config={"endpoint": endpoint} if endpoint else {},
            client_options={
                "timeout": timeout,
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
            },
            retry_config={"max_retries": retries, "retry_timeout": timeout},
        )
    except (BaseError, ValueError) as error:
        raise UsageError(
            f"cannot use {root}: {reason_of(error)}; check the AWS_… variables"
        ) from error


def _bytes(data: bytes | memoryview) -> memoryview:
    # The library refuses the signed bytes of pyarrow's buffers.
    return memoryview(data).cast("B")


def _names(found: Any) -> Names:
    return [PurePosixPath(folder).name for folder in found["common_prefixes"]]
