"""The settings of images: how they are read, and what becomes of unusual ones."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import BaseModel, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import NoDecode

from clipfleet.images import Alpha, SixteenBit, Truncated
from clipfleet.settings.separators import ROOT_SEPARATOR

_STORE = re.compile(r"(s3|gs|hf)://[^/]")


class ImageSettings(BaseModel):
    """Images."""

    max_image_pixels: PositiveInt = 178_956_970
    """Maximum of pixels in an image; the default is Pillow's limit against decompression bombs. A
    larger image becomes an error row. Larger values take more memory."""

    max_image_bytes: PositiveInt = 256 << 20
    """Maximum of bytes in an image file. A larger file becomes an error row. Larger values take
    more memory."""

    sixteen_bit: SixteenBit = "error"
    """Pictures of 16 or 32 bits a pixel, and of floating point, of which the original's transform
    makes a white or black picture. `error`: an error row. `scale`: the range of the picture's own
    values becomes 8 bits. `original`: the original's vectors. A dataset keeps the choice of its
    first submission; for single items, the worker that makes it decides."""

    alpha: Alpha = "original"
    """Ground below transparent pixels. `original`: none, so what a pixel hides is seen, often
    black. `white` or `black`: the picture is put on it. A dataset keeps one choice, as for
    `sixteen_bit`."""

    truncated: Truncated = "error"
    """JPEG files that lack only their end, and no pixel. `error`: an error row. `allow`: they are
    embedded, with the vectors of whole files. A dataset keeps one choice, as for `sixteen_bit`."""

    decode_attempts: PositiveInt = 3
    """Attempts of an image that ends its decoder, or takes longer than `decode_timeout_s`, before
    the image becomes an error row. Smaller values give up sooner; larger values survive more chance
    failures."""

    decode_timeout_s: PositiveFloat = 60.0
    """Seconds for one image in a decoder, or half of `shard_deadline_s` if that is less. Smaller
    values end a hang sooner; larger values allow slower images and slower disks."""

    input_roots: Annotated[tuple[str, ...], NoDecode] = ()
    """Folders of which workers may read images: absolute paths, and `s3://`, `gs://` and `hf://`
    URLs, separated by `:` in the environment. `..` and symbolic links are resolved first. Unset:
    every file that the worker's user, and the credentials in its environment, can read."""

    read_attempts: PositiveInt = 3
    """Attempts to read an image after a transient failure (a timeout, a 503, a network disk) before
    the image becomes an error row. Larger values survive more failures and hold up a shard for
    longer."""

    read_retry_s: PositiveFloat = 30.0
    """Seconds after the first failure in which these attempts are made. Larger values survive
    longer outages and hold up a shard for longer."""

    @field_validator("input_roots")
    @classmethod
    def _check_roots(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        for root in roots:
            # An empty root comes from an unset variable, and must not mean "no limit".
            is_path = os.path.isabs(root) and ROOT_SEPARATOR not in root
            if not is_path and not _STORE.match(root):
                raise ValueError(
                    f"{root!r} is no absolute path without '{ROOT_SEPARATOR}', and no s3://, gs:// "
                    "or hf:// URL: name folders as /data, and leave the setting out for no limit"
                )
        return roots
