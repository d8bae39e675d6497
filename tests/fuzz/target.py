"""What a target is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is fed with bytes, and with which bytes a fuzzer begins.

    `run` may raise `ClipfleetError`, and nothing else.
    """

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


Make = Callable[[Path], Target]  # its argument is a folder of its own
