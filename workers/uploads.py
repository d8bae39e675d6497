"""Uploads: pictures that come as bytes from anywhere, and are decoded in a process of their own."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from PIL import Image

from clipfleet.errors import ItemError
from clipfleet.images import PictureRules
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.storage.format.results import Failure
from clipfleet.workers.closing import Closing
from clipfleet.workers.images.decode import ImageLimits
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.images.region import Layout

_NO_RING = 1  # byte: a ring without room, so that the decoder resizes every picture


class UploadDecoder(Closing):
    """Decodes pictures for an engine, in any thread, one at a time; a context manager.

    The process starts with the first picture. A picture that ends it is an error, and the next
    picture starts another one.
    """

    def __init__(self, settings: Settings, side: Callable[[], int]) -> None:
        """`side` returns the S of the engine."""
        self._settings = settings
        self._side = side
        self._lock = Lock()
        self._decoders: Decoders | None = None

    def decoded(self, data: bytes, name: str) -> Image.Image:
        """Return the image that the bytes of a file hold, resized to S x S as an engine takes it.

        `name` is for messages.

        Raises:
            ItemError: The bytes are no image, or ended the process, or held it too long.
            CardError: There is no engine.
            StorageError: No process starts.
        """
        with self._lock:
            self._decoders = self._decoders or self._open()
            items, rules = [Item(id=name, uri=name)], PictureRules.of(self._settings)
            (outcome,) = self._decoders.run(items, files=[data], rules=rules)
            if isinstance(outcome, Failure):
                raise ItemError(outcome.error, outcome.message)
            try:
                return Image.fromarray(outcome.pixels.copy())
            finally:
                outcome.free()

    def _open(self) -> Decoders:
        return Decoders(
            ImageLimits.from_settings(self._settings),
            Layout(resolution=self._side(), slots=1, ring_bytes=_NO_RING),
            count=1,
            attempts=1,  # a person waits, and may try again
            timeout_s=self._settings.decode_timeout_s,
        )

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._decoders is not None:
                self._decoders.close()
                self._decoders = None
