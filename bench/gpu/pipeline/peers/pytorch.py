"""The model, images and vectors of PyTorch scripts, as users without clipfleet write them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from bench.gpu.named import named
from clipfleet.architectures import load_architecture
from clipfleet.convert.benchmark.runtimes import Target, encoder, pytorch_model
from clipfleet.workers.images.preprocess import MEAN, STD

Encode = Callable[[Tensor], Tensor]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float16 if DEVICE == "cuda" else torch.float32


class Photos(Dataset[Tensor]):
    """Image files as a model's inputs, float32 (3, S, S)."""

    def __init__(self, files: Sequence[str], resolution: int) -> None:
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


def arguments_of(description: str, count: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all scripts have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("photos", nargs="+", type=named, metavar="NAME=FILE")
    parser.add_argument("--model-arch", required=True)
    parser.add_argument("--count", type=int, default=count, help="images of each source")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def opened(args: argparse.Namespace, batch_size: int) -> tuple[Encode, list[tuple[str, Photos]]]:
    """Return the image tower on the device, and the photos of each source by its name."""
    architecture = load_architecture(args.model_arch)
    target = Target(
        architecture=architecture,
        tower="img",
        batch_size=batch_size,
        context_length=architecture.context_length,
    )
    model = pytorch_model(target, args.checkpoint, "fp16" if DEVICE == "cuda" else "fp32")
    sources = [
        (name, Photos(files_of(path, args.count), architecture.resolution))
        for name, path in args.photos
    ]
    return encoder(model.eval().to(DEVICE), "img"), sources


def files_of(table: Path, count: int) -> list[str]:
    """Return the paths of the first `count` images in a table of `bench.gpu.pipeline.sources`."""
    with table.open(encoding="utf-8") as lines:
        uris = [json.loads(line)["uri"] for _, line in zip(range(count), lines, strict=False)]
    return [str(table.parent / uri) for uri in uris]


def vectors_of(inputs: Tensor, encode: Encode) -> Tensor:
    """Return the unit vectors of inputs, both on the host."""
    features = encode(inputs.to(DEVICE, DTYPE, non_blocking=True))
    vectors: Tensor = features / features.norm(dim=-1, keepdim=True)
    return vectors.cpu()
