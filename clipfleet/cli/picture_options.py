"""The options of pictures that the original's transform flattens; their rules are settings."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any

import typer

from clipfleet.cli.added_options import with_options


class _SixteenBitName(str, Enum):
    """The values of `--sixteen-bit`."""

    error = "error"
    scale = "scale"
    original = "original"


class _AlphaName(str, Enum):
    """The values of `--alpha`."""

    original = "original"
    white = "white"
    black = "black"


class _TruncatedName(str, Enum):
    """The values of `--truncated`."""

    error = "error"
    allow = "allow"


_OPTIONS: dict[str, Any] = {
    "sixteen_bit": Annotated[
        _SixteenBitName | None,
        typer.Option(
            "--sixteen-bit",
            help="Images of more than 8 bits: an error row each, their own range as 8 bits, or "
            "the original's white and black pictures [default: error].",
            show_default=False,
        ),
    ],
    "alpha": Annotated[
        _AlphaName | None,
        typer.Option(
            "--alpha",
            help="Below transparent pixels: what they hide, as in the original, or this ground "
            "[default: original].",
            show_default=False,
        ),
    ],
    "truncated": Annotated[
        _TruncatedName | None,
        typer.Option(
            "--truncated",
            help="JPEG files that lack only their end, and no pixel: an error row each, or a "
            "vector [default: error].",
            show_default=False,
        ),
    ],
}


def with_picture_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of pictures, in place of its parameter `picture_settings`."""
    return with_options(command, "picture_settings", _OPTIONS, dict)
