"""The supported image formats, their file names, and the rules for unusual pictures.

HEIC, HEIF and JPEG XL need the plug-ins of the extra `formats`. Pillow knows more formats. Left out
are EPS and WMF (they run other programs), stubs (FITS, GRIB, HDF5, …), vector and document formats,
and rare formats, whose parsers add risk and little use. Of an animation or a multi-page file, the
first picture is read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

SixteenBit = Literal["error", "scale", "original"]
Alpha = Literal["original", "white", "black"]
Truncated = Literal["error", "allow"]
_CHOICES = {"sixteen_bit": SixteenBit, "alpha": Alpha, "truncated": Truncated}


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureRules:
    """How the pictures become pixels that the original's transform flattens, or cannot read.

    The values are those of the settings of the same names. A dataset has one set of rules.
    """

    sixteen_bit: SixteenBit = "error"
    alpha: Alpha = "original"
    truncated: Truncated = "error"

    @classmethod
    def of(cls, source: object) -> PictureRules:
        """Return the rules of an object with these attributes, such as the settings."""
        return cls(**{field.name: getattr(source, field.name) for field in fields(cls)})

    @classmethod
    def from_stored(cls, stored: dict[str, Any]) -> PictureRules:
        """Return the rules that `to_stored` returned; other keys are left alone.

        Raises:
            ValueError: A value is none of a rule.
        """
        found = {name: stored[name] for name in _CHOICES if name in stored}
        for name, value in found.items():
            if value not in get_args(_CHOICES[name]):
                raise ValueError(f"{name} {value!r}")
        return cls(**{**asdict(ORIGINAL_RULES), **found})

    def to_stored(self) -> dict[str, str]:
        """Return what `dataset.json` and footers say: all that is not the original's way."""
        original = asdict(ORIGINAL_RULES)
        return {name: value for name, value in asdict(self).items() if value != original[name]}


DEFAULT_RULES = PictureRules()
ORIGINAL_RULES = PictureRules(sixteen_bit="original")  # those of datasets that name none

PLUGIN_FORMATS = ("HEIF", "JXL")  # of the extra `formats`

# Pillow's names, in the order of the attempts: formats without a magic number come last.
IMAGE_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "AVIF",
    "TIFF",
    "BMP",
    "JPEG2000",
    *PLUGIN_FORMATS,
    "PPM",
    "ICO",
    "PCX",
    "QOI",
    "SGI",
    "DIB",
    "TGA",
)

# Files that a folder source reads; without its plug-in, a file becomes an error row. Lower case:
# compare with `suffix.lower()`.
IMAGE_EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        *(".png", ".apng"),
        ".webp",
        ".gif",
        *(".avif", ".avifs"),
        *(".heic", ".heics", ".heif", ".heifs", ".hif"),
        ".jxl",
        *(".tif", ".tiff"),
        *(".bmp", ".dib"),
        *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
        ".ico",
        ".pcx",
        ".qoi",
        *(".sgi", ".rgb", ".rgba", ".bw"),
        *(".tga", ".icb", ".vda", ".vst"),
    }
)
