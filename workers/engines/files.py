"""Whether the files of an engine are the ones that its card describes."""

from __future__ import annotations

from pathlib import Path

from clipfleet.card import ModelCard, sha256_of
from clipfleet.errors import EngineError


def check_files(card: ModelCard, engine_path: Path) -> None:
    """Check an engine file, and its extra file, against the card's SHA-256.

    Raises:
        EngineError: A file is missing, or is not the card's.
    """
    _check(engine_path, card.engine_sha256)
    if card.extra_file is not None:
        _check(engine_path.parent / card.extra_file, card.extra_file_sha256)


def _check(path: Path, expected: str | None) -> None:
    if not path.is_file():
        raise EngineError(
            f"engine file {path} is missing: an engine and its extra file go together"
        )
    actual = sha256_of(path)
    if actual != expected:
        raise EngineError(
            f"{path} has SHA-256 {actual}, and its card says {expected}: it is damaged or another "
            "model's; copy engine, extra file and card anew, or convert again"
        )
