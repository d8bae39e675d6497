"""Measure bulk embedding with PyTorch's DataLoader, as a script without clipfleet does it.

    python -m bench.gpu.pipeline.dataloader vit-b-16.pt PHOTOS --model-arch ViT-B-16 --out figures

Processes open, resize and normalise the images with Pillow and PyTorch. The model runs eagerly, in
float16 on a GPU, in batches of 256. The vectors are normalised and saved as .npy.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.gpu.pipeline.figures import Figure, dump_figures
from clipfleet.architectures import load_architecture
from clipfleet.convert.benchmark.runtimes import Target, encoder, pytorch_model
from clipfleet.settings import cores
from clipfleet.workers.images.preprocess import MEAN, STD

_BATCH_SIZE = 256
_WARM_UP = 4096  # images


class Photos(Dataset[Tensor]):
    """Image files as a model's inputs, float32 (3, S, S)."""

    def __init__(self, files: Sequence[Path], resolution: int) -> None:
        self.files = files
        self.size = (resolution, resolution)
        self.mean = torch.tensor(MEAN).reshape(3, 1, 1)
        self.std = torch.tensor(STD).reshape(3, 1, 1)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        with Image.open(self.files[number]) as image:
            small = image.resize(self.size, Image.Resampling.BICUBIC).convert("RGB")
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float()
        return pixels.div_(255).sub_(self.mean).div_(self.std)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model-arch", required=True)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    architecture = load_architecture(args.model_arch)
    target = Target(
        architecture=architecture,
        tower="img",
        batch_size=_BATCH_SIZE,
        context_length=architecture.context_length,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = pytorch_model(target, args.checkpoint, "fp16" if device == "cuda" else "fp32")
    encode = encoder(model.eval().to(device), "img")
    photos = Photos(sorted(args.photos.rglob("*.jpg"))[: args.count], architecture.resolution)
    if not photos.files:
        raise SystemExit(f"no .jpg file below {args.photos}")
    embed(Photos(photos.files[:_WARM_UP], architecture.resolution), encode, device)
    args.out.write_text(dump_figures([embed(photos, encode, device)]), encoding="utf-8")


@torch.inference_mode()
def embed(photos: Photos, encode: Callable[[Tensor], Tensor], device: str) -> Figure:
    """Embed all photos; steady is from the first batch to the end."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    began_s = time.perf_counter()
    vectors: list[Tensor] = []
    first_s = 0.0
    for inputs in DataLoader(
        photos,
        batch_size=_BATCH_SIZE,
        num_workers=cores(),
        pin_memory=device == "cuda",
    ):
        features = encode(inputs.to(device, dtype, non_blocking=True))
        vectors.append((features / features.norm(dim=-1, keepdim=True)).cpu())
        first_s = first_s or time.perf_counter()
    with tempfile.TemporaryFile() as file:
        np.save(file, torch.cat(vectors).numpy())
    ended_s = time.perf_counter()
    rest = len(photos) - len(vectors[0])
    return Figure(
        measured="PyTorch DataLoader, eager",
        engine="PyTorch",
        images_s=rest / (ended_s - first_s) if rest else None,
        whole_images_s=len(photos) / (ended_s - began_s),
        details=f"{cores()} processes, batches of {_BATCH_SIZE}, {dtype}",
    )


if __name__ == "__main__":
    main()
