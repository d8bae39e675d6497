"""The type of a fuzzing target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipfleet.error_codes import ERROR_CODES
from clipfleet.errors import ItemError
from clipfleet.workers.item_errors import MAX_MESSAGE_LENGTH


@dataclass(frozen=True, kw_only=True)
class Target:
    """A function of bytes, and the inputs with which a fuzzer begins.

    `run` may raise `ClipfleetError`, and nothing else.
    """

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    reads_anything: bool = False  # it may read any file of its user


Make = Callable[[Path], Target]  # its argument is a folder of its own


@contextmanager
def rows() -> Iterator[None]:
    """Make sure that an item's error is fit for an errors table, and for a terminal."""
    found = None
    try:
        yield
    except ItemError as error:
        found = error
    if found is not None:
        assert found.code in ERROR_CODES
        assert len(str(found)) <= MAX_MESSAGE_LENGTH
        assert str(found).isprintable(), repr(str(found))
