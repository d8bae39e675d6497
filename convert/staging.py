"""Build a conversion's files under temporary names, and rename them when they are complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from clipfleet.engine_files import sha256_of
from clipfleet.errors import UsageError, VerificationError
from clipfleet.model_card import ModelCard, card_path, write_card

EXTRA_FILE_SUFFIX = ".extra_file"  # the weights beside an ONNX file, as the original names them


@contextmanager
def staging_folder(save_prefix: Path) -> Iterator[Path]:
    """Yield a hidden folder beside the target, on its file system; removed at the end."""
    if not save_prefix.name:
        raise UsageError(f"{save_prefix} is no prefix of file names: give one as models/vit-b-16")
    save_prefix.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=save_prefix.parent, prefix=f".{save_prefix.name}.converting-"
    ) as folder:
        yield Path(folder)


def with_checksums(card: ModelCard, engine: Path) -> ModelCard:
    """Return a card with the names and SHA-256 of an engine and of its extra file, if any."""
    extra = Path(f"{engine}{EXTRA_FILE_SUFFIX}")
    with_extra = extra.is_file()
    return replace(
        card,
        engine=engine.name,
        engine_sha256=sha256_of(engine),
        extra_file=extra.name if with_extra else None,
        extra_file_sha256=sha256_of(extra) if with_extra else None,
    )


def publish_accepted(
    accepted: Sequence[tuple[ModelCard, Path]],
    rejected: Sequence[VerificationError],
    folder: Path,
) -> list[tuple[ModelCard, Path]]:
    """Move the engines that passed into `folder`; return each card with its path.

    Raises:
        VerificationError: Float16 engines were rejected; the others were moved.
    """
    published = [(card, publish(card, staged, folder)) for card, staged in accepted]
    if not rejected:
        return published
    kept = ", ".join(str(folder / card.engine) for card, _ in published) or "nothing"
    raise VerificationError(
        f"{'. '.join(map(str, rejected))}. Kept: {kept}. To convert without float16, give "
        "`clipfleet convert` the option `--precision fp32`"
    )


def publish(card: ModelCard, staged: Path, folder: Path) -> Path:
    """Move a verified engine into `folder`, write its card and return the card's path.

    All new files are complete before the first old file is removed. The old graph never lies
    beside the new weights. The card is moved last.
    """
    engine = folder / staged.name
    write_card(card, card_path(staged))
    card_path(engine).unlink(missing_ok=True)
    if card.extra_file is not None:
        engine.unlink(missing_ok=True)
        os.replace(staged.parent / card.extra_file, folder / card.extra_file)
    os.replace(staged, engine)
    os.replace(card_path(staged), card_path(engine))
    return card_path(engine)
