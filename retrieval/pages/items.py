"""Items of others in a page: their names as text, and their pictures as thumbnails."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from html import escape

from PIL import Image

from clipfleet.errors import ItemError, StorageError
from clipfleet.retrieval.pages.thumbnails import thumbnail
from clipfleet.retrieval.pages.visible import visible

# From a uri and a number of pixels, below which no side need be: raises ItemError or StorageError.
OpenImage = Callable[[str, int], Image.Image]

NAME_CHARACTERS = 400  # of a text, which may have a million

_SIDE = 320  # pixels of a thumbnail; a column is half as wide, for screens with two pixels for one


def picture(uri: str, alt: str, open_image: OpenImage) -> str:
    """Return the thumbnail of a picture, or the reason why there is none."""
    try:
        return image(uri, alt, open_image)
    except (ItemError, StorageError, OSError, ValueError) as error:
        return f'<span class="missing">{quoted(alt)} is not shown: {quoted(str(error))}</span>'


def image(uri: str, alt: str, open_image: OpenImage) -> str:
    """Return the thumbnail of a picture.

    Raises:
        ItemError, StorageError, OSError, ValueError: It cannot be read.
    """
    small = thumbnail(open_image(uri, _SIDE), _SIDE)
    data = b64encode(small.data).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{small.width}" height="{small.height}" '
        f'alt="{escape(visible(alt))}">'
    )


def quoted(text: str) -> str:
    """Return a text of others in HTML; it cannot turn the order of the text around it."""
    return f"<bdi>{escape(visible(text))}</bdi>"
