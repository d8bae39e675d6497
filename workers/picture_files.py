"""Pictures for a person to see, with the limits of the settings."""

from __future__ import annotations

from PIL import Image

from clipfleet.images import PictureRules
from clipfleet.settings import Settings
from clipfleet.workers.http.remote_fetcher import RemoteFetcher
from clipfleet.workers.images.decode import ImageLimits, load_by_rules, open_image
from clipfleet.workers.images.read import read_bytes

# A person sees what is there, also of a picture that its dataset refused.
_SHOWN = PictureRules(sixteen_bit="scale", truncated="allow")


class PictureFiles:
    """Reads the files of uris, in any thread; each method raises `ItemError` with the reason."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits

    @classmethod
    def from_settings(cls, settings: Settings) -> PictureFiles:
        fetch = RemoteFetcher.from_settings(settings).fetch
        return cls(ImageLimits.from_settings(settings, fetch))

    def small(self, uri: str, side: int) -> Image.Image:
        """Return the image of a uri, in its own size, or smaller where its sides stay above `side`.

        Of a JPEG file, no more pixels are decoded than that needs. The range of a picture of more
        than 8 bits becomes 0 to 255, and a JPEG file may lack its end.
        """
        data, max_pixels = self._read(uri), self._limits.max_pixels
        image = open_image(data, uri, max_pixels)
        image.draft("RGB", (side, side))
        return load_by_rules(image, data, uri, max_pixels, _SHOWN)[0]

    def file(self, uri: str) -> tuple[bytes, str]:
        """Return the bytes of an image file, and its media type, such as image/png."""
        data = self._read(uri)
        image = open_image(data, uri, self._limits.max_pixels)
        return data, Image.MIME.get(image.format or "", "application/octet-stream")

    def _read(self, uri: str) -> bytes:
        limits = self._limits
        return read_bytes(
            uri,
            limits.max_bytes,
            limits.input_roots,
            attempts=limits.attempts,
            fetch=limits.fetch,
        )
