"""The pictures of an index's rows: thumbnails, and the files themselves."""

from __future__ import annotations

from functools import lru_cache
from threading import BoundedSemaphore
from typing import Protocol

from PIL import Image

from clipfleet.error_codes import DECODE_FAILED
from clipfleet.errors import ItemError
from clipfleet.retrieval.pages.thumbnails import thumbnail

SIDE = 320  # pixels of a thumbnail; a column is half as wide, for screens with two pixels for one
_CACHED = 1024  # thumbnails
_AT_ONCE = 4  # pictures that are decoded; one of 178,956,970 pixels takes 0.5 GB


class PictureSource(Protocol):
    """What reads pictures, as `workers/picture_files.py`; each method raises `ItemError`."""

    def small(self, uri: str, side: int) -> Image.Image:
        """Return the image of a uri, loaded, of any size above `side`."""

    def file(self, uri: str) -> tuple[bytes, str]:
        """Return the bytes of an image file, and its media type."""


class Pictures:
    """Thumbnails and files of uris; a caller takes the uris from an index, never from a request."""

    def __init__(self, source: PictureSource) -> None:
        self._source = source
        self._decoding = BoundedSemaphore(_AT_ONCE)
        self.thumbnail = lru_cache(maxsize=_CACHED)(self._thumbnail)
        self.file = source.file

    def _thumbnail(self, uri: str) -> bytes:
        """Return a small JPEG file of a picture.

        Raises:
            ItemError: The file cannot be read, or is no image.
        """
        with self._decoding:
            image = self._source.small(uri, SIDE)
            try:
                return thumbnail(image, SIDE).data
            except (OSError, ValueError) as error:  # Pillow does not convert every mode
                raise ItemError(DECODE_FAILED, f"{uri} cannot be shown: {error}") from error
