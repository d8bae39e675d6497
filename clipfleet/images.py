"""The image formats that are read, and the file names that go with them.

Not every format that Pillow knows is here: no EPS or WMF (they run other programs), no
format that needs a plug-in, no stub (FITS, GRIB, HDF5, …), no vector or document format,
and no rare one whose parser would only be a door for hostile files. An animation or a
multi-page file gives its first picture.
"""

from __future__ import annotations

# Pillow's names, in the order in which they are tried: the ones without a magic number last.
IMAGE_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "AVIF",
    "TIFF",
    "BMP",
    "JPEG2000",
    "PPM",
    "ICO",
    "PCX",
    "QOI",
    "SGI",
    "DIB",
    "TGA",
)

# What a folder source takes for an image. Lower case; compare `suffix.lower()`.
IMAGE_EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        *(".png", ".apng"),
        ".webp",
        ".gif",
        *(".avif", ".avifs"),
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
