"""The files of an engine, checked against the SHA-256 in its model card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipfleet.errors import EngineDamagedError
from clipfleet.model_card import ModelCard

_CHUNK_BYTES = 1 << 20


def check_files(card: ModelCard, engine_path: Path) -> None:
    """Check an engine file and its extra file against the SHA-256 in the card.

    Raises:
        EngineDamagedError: A file is missing, unreadable, or has another SHA-256.
    """
    _check_file(engine_path, card.engine_sha256)
    if card.extra_file is not None:
        _check_file(engine_path.parent / card.extra_file, card.extra_file_sha256)


def read_engine(path: Path, card: ModelCard | None) -> bytes:
    """Return an engine file's bytes, which match the SHA-256 in the card if there is a card.

    Run these bytes: the file may be replaced between a check and another reading.

    Raises:
        EngineDamagedError: The file is missing, unreadable, or has another SHA-256.
    """
    with _readable(path):
        data = path.read_bytes()
    if card is not None:
        _check_sha256(path, hashlib.sha256(data).hexdigest(), card.engine_sha256)
    return data


def sha256_of(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_file(path: Path, expected: str | None) -> None:
    with _readable(path):
        actual = sha256_of(path)
    _check_sha256(path, actual, expected)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise EngineDamagedError(
            f"engine file {path} is missing: an engine and its extra file go together"
        )
    try:
        yield
    except OSError as error:
        raise EngineDamagedError(f"engine file {path} cannot be read: {error.strerror}") from error


def _check_sha256(path: Path, actual: str, expected: str | None) -> None:
    if actual != expected:
        raise EngineDamagedError(
            f"{path} has SHA-256 {actual}, and its card says {expected}: it is damaged or another "
            "model's; copy engine, extra file and card anew, or convert again"
        )
