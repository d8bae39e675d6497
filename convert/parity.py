"""Compare an engine with its float32 reference on real items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.errors import ItemError, SourceError, VerificationError
from clipfleet.images import IMAGE_EXTENSIONS
from clipfleet.items import Item
from clipfleet.model_card import Parity, Precision
from clipfleet.workers.engines.base import Engine
from clipfleet.workers.images.decode import read_image
from clipfleet.workers.images.preprocess import preprocess_batch
from clipfleet.workers.text.tokenizer import Tokenizer

# The smallest cosine of an item's features and the reference's.
THRESHOLDS: Mapping[Precision, float] = {"fp32": 0.999999, "fp16": 0.9999}
MAX_ITEMS = 64  # of each kind; more items cost minutes for the largest models

Features = NDArray[np.float32]


def verify_inputs(
    tower: Tower, size: int, *, images: Path | None = None, texts: Path | None = None
) -> NDArray[Any]:
    """Return a tower's inputs: float32 (n, 3, size, size) pixels or int64 (n, size) ids.

    `images` is a folder of pictures or one picture, `texts` a file of one text a line;
    samples that come with the package by default. At most `MAX_ITEMS` are taken.

    Raises:
        SourceError: There is nothing to verify with, or a picture cannot be read.
    """
    if tower == "txt":
        return Tokenizer().encode(_texts(texts)[:MAX_ITEMS], size)
    with resources.as_file(resources.files("clipfleet.workers.images.samples")) as samples:
        paths = _pictures(images or samples)[:MAX_ITEMS]
        try:
            pictures = [read_image(Item(id=path.name, uri=str(path)))[0] for path in paths]
        except ItemError as error:
            raise SourceError(f"cannot verify with a picture: {error}") from error
    return preprocess_batch(pictures, size)


def _pictures(path: Path) -> list[Path]:
    path = path.absolute()
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS)
    if not files:
        raise SourceError(f"no pictures to verify with in {path}")
    return files


def _texts(path: Path | None) -> list[str]:
    source = path or resources.files("clipfleet.convert.samples") / "texts.txt"
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read texts to verify with from {source}: {error}") from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise SourceError(f"no texts to verify with in {source}: one a line is expected")
    return texts


def measure_parity(
    features: Features, reference: Features, *, threshold: float, reference_name: str
) -> Parity:
    """Return how close features (n, D) are to the reference's (n, D); NaN where one is."""
    wide, expected = features.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        directions = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        cosines = np.minimum((unit * directions).sum(axis=1), 1.0)
        difference = np.abs(wide - expected).max()
    return Parity(
        reference=reference_name,
        items=len(features),
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        max_abs_diff=float(difference),
        threshold=threshold,
        cosine_between_items=_between_items(reference),
    )


def _between_items(reference: Features) -> float | None:
    """Return the mean cosine of two different items; None where there is one."""
    count = len(reference)
    if count < 2:
        return None
    wide = reference.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        directions = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        between = directions @ directions.T
    return float((between.sum() - between.trace()) / (count * (count - 1)))


def verify_engine(
    engine: Engine,
    inputs: NDArray[Any],
    reference: Features,
    *,
    reference_name: str,
    call_sizes: Sequence[int | None] = (None,),
) -> Parity:
    """Return an engine's parity with the reference on the tower's inputs.

    For each of `call_sizes`, all inputs go through the engine in calls of exactly that many
    items (None: all in one call). The parity is the worst of these runs.

    Raises:
        VerificationError: An item's cosine is below the threshold of the engine's
            precision, or an output is not finite.
    """
    card = engine.card
    parities = []
    for size in call_sizes:
        calls = _calls(len(inputs), size)
        features = np.concatenate([engine(inputs[rows]) for rows in calls])
        rows = np.concatenate(calls)
        _check_finite(features, rows, card.engine, card.precision)
        parities.append(
            measure_parity(
                features,
                reference[rows],
                threshold=THRESHOLDS[card.precision],
                reference_name=reference_name,
            )
        )
    parity = replace(
        worst(parities), items=len(inputs), cosine_between_items=_between_items(reference)
    )
    if not parity.passed:
        raise VerificationError(
            f"{card.engine} strays from {parity.reference}: the worst of {parity.items} items has "
            f"cosine {parity.cosine_min:.7f}, below {parity.threshold} for {card.precision} by "
            f"{parity.threshold - parity.cosine_min:.2e} (mean {parity.cosine_mean:.7f}, largest "
            f"difference {parity.max_abs_diff:.3g}); it was not kept"
        )
    return parity


def _calls(count: int, size: int | None) -> list[NDArray[np.int64]]:
    """Return the items of each call: `size` items; the last call is filled from the first item."""
    if size is None:
        return [np.arange(count)]
    return [np.arange(start, start + size) % count for start in range(0, count, size)]


def _check_finite(
    features: Features, rows: NDArray[np.int64], engine: str, precision: Precision
) -> None:
    """Check the features of the items in `rows`, where an item may occur twice."""
    bad = set(rows[~np.isfinite(features).all(axis=1)].tolist())
    if bad:
        raise VerificationError(
            f"{engine} gives NaN or infinity for {len(bad)} of {len(set(rows.tolist()))} items: a "
            f"weight is not finite, or {precision} cannot hold this model's activations"
        )


def worst(parities: Sequence[Parity]) -> Parity:
    """Return the worst value of each field in several measurements on the same items.

    NaN, the cosine of features that are all zero, is the worst value: Python's `min` would
    ignore it.
    """
    return replace(
        parities[0],
        cosine_min=float(np.min([parity.cosine_min for parity in parities])),
        cosine_mean=float(np.min([parity.cosine_mean for parity in parities])),
        max_abs_diff=float(np.max([parity.max_abs_diff for parity in parities])),
    )
