"""Measure bulk embedding with PyTorch's DataLoader, as clip-retrieval does it.

    python -m bench.gpu.pipeline.peers.dataloader vit-b-16.pt 500x375=photos.jsonl \\
        --model-arch ViT-B-16 --out figures.json

Processes open, resize and normalise the images with Pillow and PyTorch. The model takes batches of
256, in float16 on a GPU. The vectors go into one Parquet file at the end. With `--compile` the
model goes through `torch.compile`, the time of which is in no rate.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bench.gpu.pipeline.figures import COMPILED, EAGER, Figure, add_figure
from bench.gpu.pipeline.peers.pytorch import (
    DEVICE,
    DTYPE,
    Encode,
    Photos,
    arguments_of,
    opened,
    vectors_of,
)
from clipfleet.settings import cores

BATCH_SIZE = 256
_BATCHES = 3  # of each process; the first one is not steady
_ALONE_CALLS = 20


def main(arguments: Sequence[str] | None = None) -> None:
    parser = arguments_of((__doc__ or "").splitlines()[0], count=_BATCHES * cores() * BATCH_SIZE)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args(arguments)
    encode, sources = opened(args, BATCH_SIZE)
    for figure in measure(encode, sources, compiled=args.compile):
        add_figure(figure, args.out)


@torch.inference_mode()
def measure(
    encode: Encode, sources: Sequence[tuple[str, Photos]], *, compiled: bool
) -> Iterator[Figure]:
    """Yield the model alone, and the DataLoader on each source."""
    engine = COMPILED if compiled else EAGER
    _, first = sources[0]
    inputs = torch.randn(BATCH_SIZE, 3, *first.size, device=DEVICE).to(DTYPE)
    began_s = time.perf_counter()
    if compiled:
        encode = torch.compile(encode, dynamic=False)
    encode(inputs).cpu()
    ready_s = time.perf_counter() - began_s
    yield Figure(
        kind="engine",
        engine=engine,
        items_s=alone_rate(encode, inputs),
        details=f"torch {torch.__version__}, {DTYPE}, batches of {BATCH_SIZE} on the device; first "
        f"call {ready_s:.1f} s",
    )
    for name, photos in sources:
        whole = len(photos) // BATCH_SIZE * BATCH_SIZE or len(photos)
        files = photos.files[:whole]  # a smaller last batch would be compiled again
        embed(Photos(files[: max(BATCH_SIZE, whole // 8)], photos.size[0]), encode)
        steady_rate, whole_rate = embed(Photos(files, photos.size[0]), encode)
        yield Figure(
            kind="dataloader",
            inputs=name,
            engine=engine,
            items_s=steady_rate,
            whole_items_s=whole_rate,
            details=f"{cores()} processes, {whole:,} images",
        )


def alone_rate(encode: Encode, inputs: Tensor) -> float:
    """Return the items a second of the model alone."""
    encode(inputs).cpu()
    began_s = time.perf_counter()
    for _ in range(_ALONE_CALLS):
        features = encode(inputs)
    features.cpu()
    return _ALONE_CALLS * len(inputs) / (time.perf_counter() - began_s)


def embed(photos: Photos, encode: Encode) -> tuple[float | None, float]:
    """Embed all photos; return the steady rate, and that of the whole.

    Steady is from the moment at which each process has delivered a batch. None if none follows.
    """
    began_s = time.perf_counter()
    vectors: list[Tensor] = []
    steady_s = began_s
    loader = DataLoader(
        photos, batch_size=BATCH_SIZE, num_workers=cores(), pin_memory=DEVICE == "cuda"
    )
    for inputs in loader:
        vectors.append(vectors_of(inputs, encode))
        if len(vectors) == cores():
            steady_s = time.perf_counter()
    write_parquet(photos.files, torch.cat(vectors))
    ended_s = time.perf_counter()
    rest = sum(map(len, vectors[cores() :]))
    return rest / (ended_s - steady_s) if rest else None, len(photos) / (ended_s - began_s)


def write_parquet(files: Sequence[str], vectors: Tensor) -> None:
    """Write ids and vectors as float16 into a file that is removed again."""
    flat = pa.array(vectors.to(torch.float16).numpy().reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        pq.write_table(pa.table({"id": list(files), "vector": column}), file.name)


if __name__ == "__main__":
    main()
