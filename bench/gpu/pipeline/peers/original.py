"""Measure the loop of the original's extract_features.py.

    python -m bench.gpu.pipeline.peers.original vit-b-16.pt 500x375=photos.jsonl \\
        --model-arch ViT-B-16 --out figures.json

One process opens, resizes and normalises the images, 64 in a batch as by default there, and writes
each vector as a line of JSON. Then the same with one image in a batch. The model runs eagerly, in
float16 on a GPU (`--precision fp16` there). The original reads from an LMDB; here it is the files.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from bench.gpu.pipeline.figures import EAGER, Figure, add_figure
from bench.gpu.pipeline.peers.pytorch import (
    DEVICE,
    Encode,
    Photos,
    arguments_of,
    opened,
    vectors_of,
)

_BATCH_SIZES = (64, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    args = arguments_of((__doc__ or "").splitlines()[0], count=256).parse_args(arguments)
    encode, sources = opened(args, max(_BATCH_SIZES))
    for name, photos in sources:
        for batch_size in _BATCH_SIZES:
            add_figure(measure(name, photos, encode, batch_size), args.out)


def measure(name: str, photos: Photos, encode: Encode, batch_size: int) -> Figure:
    """Measure the loop without its start."""
    extract(Photos(photos.files[:batch_size], photos.size[0]), encode, batch_size)
    began_s = time.perf_counter()
    extract(photos, encode, batch_size)
    return Figure(
        kind="original",
        inputs=name,
        engine=EAGER,
        items_s=len(photos) / (time.perf_counter() - began_s),
        details=f"one process, batches of {batch_size}, {len(photos)} images, JSON lines",
    )


@torch.inference_mode()
def extract(photos: Photos, encode: Encode, batch_size: int) -> None:
    """Embed photos into a file that is removed again."""
    files = iter(photos.files)
    with tempfile.TemporaryFile("w", encoding="utf-8") as out:
        for inputs in DataLoader(photos, batch_size=batch_size, pin_memory=DEVICE == "cuda"):
            vectors = vectors_of(inputs, encode).tolist()
            for vector, file in zip(vectors, files, strict=False):
                out.write(json.dumps({"image_id": file, "feature": vector}) + "\n")


if __name__ == "__main__":
    main()
