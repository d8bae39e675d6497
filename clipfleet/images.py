"""The supported image formats and their file names.

HEIC, HEIF and JPEG XL need the plug-ins of the extra `formats`. Pillow knows more formats. Left out
are EPS and WMF (they run other programs), stubs (FITS, GRIB, HDF5, …), vector and document formats,
and rare formats, whose parsers add risk and little use. Of an animation or a multi-page file, the
first picture is read.
"""

from __future__ import annotations

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
