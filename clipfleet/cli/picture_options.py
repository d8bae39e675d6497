"""The options of pictures that the original's transform flattens; their rules are settings."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class SixteenBitName(str, Enum):
    """The values of `--sixteen-bit`."""

    error = "error"
    scale = "scale"
    original = "original"


class AlphaName(str, Enum):
    """The values of `--alpha`."""

    original = "original"
    white = "white"
    black = "black"


class TruncatedName(str, Enum):
    """The values of `--truncated`."""

    error = "error"
    allow = "allow"


SixteenBitOption = Annotated[
    SixteenBitName | None,
    typer.Option(
        "--sixteen-bit",
        help="Images of more than 8 bits: an error row each, their own range as 8 bits, or the "
        "original's white and black pictures [default: error].",
        show_default=False,
    ),
]
AlphaOption = Annotated[
    AlphaName | None,
    typer.Option(
        "--alpha",
        help="Below transparent pixels: what they hide, as in the original, or this ground "
        "[default: original].",
        show_default=False,
    ),
]
TruncatedOption = Annotated[
    TruncatedName | None,
    typer.Option(
        "--truncated",
        help="JPEG files that lack only their end, and no pixel: an error row each, or a vector "
        "[default: error].",
        show_default=False,
    ),
]
