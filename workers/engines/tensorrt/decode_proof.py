"""The proof of the GPU's JPEG decoder: it gives nearly the vectors of Pillow's pixels, here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipfleet.errors import EngineUnverifiedError
from clipfleet.workers.engines.base import PictureEngine, l2_normalise
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.jpeg_decoder import BLANK, JpegDecoder
from clipfleet.workers.images.decode import decode
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.preprocess import preprocess_batch

MIN_COSINE = 0.9999  # mean over the samples
_MAX_PIXELS = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """A photograph in the form of a decoder's picture that is a JPEG file."""

    name: str
    image: Image.Image
    file: NDArray[np.uint8]
    on_gpu: bool = False

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def file_bytes(self) -> int:
        return len(self.file)

    @property
    def address(self) -> int:
        return int(self.file.ctypes.data)

    def free(self) -> None:
        """Do nothing: the sample stays."""


def prove_decode(engine: PictureEngine, jpegs: JpegDecoder) -> None:
    """Compare the vectors of photographs that the GPU decodes with those of Pillow's pixels.

    The package's photographs are taken. The result is logged.

    Raises:
        EngineUnverifiedError: The GPU does not decode or resize them, or the mean of the cosines
            is below `MIN_COSINE`.
        EngineError: The engine failed.
    """
    samples = _samples()
    levels = _levels(samples, jpegs)
    left = [sample.name for sample, found in zip(samples, levels, strict=True) if found is None]
    if left or not engine.takes_pictures:
        what = f"it does not decode {', '.join(left)}" if left else "it does not resize exactly"
        raise _refusal(what)
    given = preprocess_batch([one.image for one in samples], engine.card.input.shape[-1] or 0)
    exact = l2_normalise(engine(given))
    features = np.empty_like(exact)
    engine.run_pictures(cast("list[Picture]", samples), features, lambda _: None)
    cosines = np.einsum("nd,nd->n", exact, l2_normalise(features))
    mean, least, most = cosines.mean(), cosines.min(), max(one or 0 for one in levels)
    figures = f"cosines of {len(samples)} photographs: mean {mean:.6f}, least {least:.6f}"
    if not mean >= MIN_COSINE:  # NaN fails too
        raise _refusal(
            f"{figures}; pixels differ by up to {most} levels; the mean must be {MIN_COSINE}"
        )
    log.info(
        "the GPU decodes JPEG files",
        extra={
            "photographs": len(samples),
            "levels": most,
            "cosine_mean": round(float(mean), 8),
            "cosine_min": round(float(least), 8),
        },
    )


def _samples() -> list[_Sample]:
    folder = resources.files("clipfleet.workers.images.samples")
    files = [file for file in folder.iterdir() if file.name.endswith(".jpg")]
    samples = []
    for file in sorted(files, key=lambda one: one.name):
        data = file.read_bytes()
        image, _ = decode(data, file.name, _MAX_PIXELS)
        content = np.frombuffer(data, np.uint8)
        samples.append(_Sample(name=file.name, image=image, file=content))
    return samples


def _levels(samples: Sequence[_Sample], jpegs: JpegDecoder) -> list[int | None]:
    """Return how far the GPU's pixels are from Pillow's, at most; None if it does not decode."""
    found: list[int | None] = []
    for sample, pixels in zip(samples, jpegs.decode(samples, jpegs.stream), strict=True):
        if pixels is BLANK:
            found.append(None)
            continue
        own = np.asarray(sample.image.convert("RGB"))
        made = np.empty_like(own)
        target, size_bytes = made.ctypes.data, made.nbytes
        cuda.copy_async(target, pixels.address, size_bytes, "DeviceToHost", jpegs.stream)
        jpegs.stream.synchronize()
        found.append(int(np.abs(made.astype(np.int16) - own).max()))
    return found


def _refusal(reason: str) -> EngineUnverifiedError:
    return EngineUnverifiedError(
        f"the GPU may not decode JPEG files on this machine: {reason}; leave --decode gpu out "
        "(CLIPFLEET_DECODE), in a new dataset"
    )
