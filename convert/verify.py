"""The proof that an engine computes what float32 PyTorch computes, on real items."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfleet.card import Parity, Precision
from clipfleet.errors import ItemError, SourceError, VerificationError
from clipfleet.images import IMAGE_EXTENSIONS
from clipfleet.jobs import Item
from clipfleet.models import Architecture, Tower
from convert.chinese_clip import ChineseClip
from workers.decode import read_image
from workers.engines.base import Engine
from workers.preprocess import preprocess_batch
from workers.tokenizer import Tokenizer

# The cosine below which an item's features are not the reference's any more.
THRESHOLDS: Mapping[Precision, float] = {"fp32": 0.999999, "fp16": 0.9999}
MAX_ITEMS = 64  # of each kind; more prove no more and cost minutes for the largest models

_BATCH = 4  # items that the reference takes at once

Features = NDArray[np.float32]


def verify_inputs(
    architecture: Architecture,
    tower: Tower,
    *,
    context_length: int,
    images: Path | None = None,
    texts: Path | None = None,
) -> NDArray[Any]:
    """Return a tower's inputs: float32 (n, 3, S, S) pixels or int64 (n, L) ids.

    `images` is a folder of pictures or one picture, `texts` a file of one text a line;
    samples that come with the package by default. At most `MAX_ITEMS` are taken.

    Raises:
        SourceError: There is nothing to verify with, or a picture cannot be read.
    """
    if tower == "txt":
        return Tokenizer().encode(_texts(texts)[:MAX_ITEMS], context_length)
    with resources.as_file(resources.files("convert.samples")) as samples:
        paths = _pictures(images or samples)[:MAX_ITEMS]
        try:
            pictures = [read_image(Item(id=path.name, uri=str(path)))[0] for path in paths]
        except ItemError as error:
            raise SourceError(f"cannot verify with a picture: {error}") from error
    return preprocess_batch(pictures, architecture.resolution)


def _pictures(path: Path) -> list[Path]:
    path = path.absolute()
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS)
    if not files:
        raise SourceError(f"no pictures to verify with in {path}")
    return files


def _texts(path: Path | None) -> list[str]:
    source = path or resources.files("convert.samples") / "texts.txt"
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read texts to verify with from {source}: {error}") from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise SourceError(f"no texts to verify with in {source}: one a line is expected")
    return texts


def reference_features(model: ChineseClip, tower: Tower, inputs: NDArray[Any]) -> Features:
    """Return a model's features of a tower's inputs, float32 (n, D), not normalised."""
    encode = model.encode_image if tower == "img" else model.encode_text
    batches = torch.split(torch.from_numpy(inputs), _BATCH)
    with torch.inference_mode():
        features: Features = torch.cat([encode(batch).float() for batch in batches]).numpy()
    return features


def measure_parity(features: Features, reference: Features, *, threshold: float) -> Parity:
    """Return how close features (n, D) are to the reference's (n, D); NaN where one is."""
    wide, expected = features.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        directions = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        cosines = np.minimum((unit * directions).sum(axis=1), 1.0)
        difference = np.abs(wide - expected).max()
        between = directions @ directions.T
    count = len(features)
    return Parity(
        reference=f"torch {torch.__version__} float32",
        items=count,
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        max_abs_diff=float(difference),
        threshold=threshold,
        cosine_between_items=float((between.sum() - between.trace()) / (count * (count - 1)))
        if count > 1
        else None,
    )


def verify_engine(engine: Engine, inputs: NDArray[Any], reference: Features) -> Parity:
    """Return an engine's parity with the reference on the tower's inputs.

    Raises:
        VerificationError: An item's cosine is below the threshold of the engine's
            precision, or an output is not finite.
    """
    card = engine.card
    features = engine(inputs)
    parity = measure_parity(features, reference, threshold=THRESHOLDS[card.precision])
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        raise VerificationError(
            f"{card.engine} gives NaN or infinity for {bad} of {len(features)} items: a weight is "
            f"not finite, or {card.precision} cannot hold this model's activations"
        )
    if not parity.passed:
        raise VerificationError(
            f"{card.engine} strays from {parity.reference}: the worst of {parity.items} items has "
            f"cosine {parity.cosine_min:.7f}, below {parity.threshold} for {card.precision} by "
            f"{parity.threshold - parity.cosine_min:.2e} (mean {parity.cosine_mean:.7f}, largest "
            f"difference {parity.max_abs_diff:.3g}); nothing was kept"
        )
    return parity
