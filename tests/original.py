"""The original, `cn_clip`, for parity tests, without torchvision.

`cn_clip.clip` imports `torchvision.transforms`, which is not installed here (and whose
wheels do not fit every build of torch). The parts that it uses are written again below, with the
same operations of Pillow and torch.
"""

from __future__ import annotations

import enum
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image


class InterpolationMode(enum.Enum):
    BICUBIC = Image.Resampling.BICUBIC


class Compose:
    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, value: Any) -> Any:
        for transform in self.transforms:
            value = transform(value)
        return value


class Resize:
    def __init__(self, size: tuple[int, int], *, interpolation: InterpolationMode) -> None:
        self.size = size  # height, width
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        if (image.height, image.width) == self.size:
            return image
        return image.resize(self.size[::-1], self.interpolation.value)


class ToTensor:
    def __call__(self, image: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8, copy=True))
        pixels = pixels.view(image.height, image.width, len(image.getbands()))
        return pixels.permute(2, 0, 1).contiguous().to(dtype=torch.float32).div(255)


class Normalize:
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.as_tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.clone().sub_(self.mean).div_(self.std)


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Let `import torchvision` find the parts above meanwhile."""
    package, transforms = ModuleType("torchvision"), ModuleType("torchvision.transforms")
    for stand_in in (InterpolationMode, Compose, Resize, ToTensor, Normalize):
        setattr(transforms, stand_in.__name__, stand_in)
    datasets = ModuleType("torchvision.datasets")
    package.transforms = transforms  # type: ignore[attr-defined]
    package.datasets = datasets  # type: ignore[attr-defined]
    stand_ins = {module.__name__: module for module in (package, transforms, datasets)}
    kept = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(kept)


@cache
def original_utils() -> Any:
    """Return the module `cn_clip.clip.utils`: `tokenize`, `image_transform` and more."""
    with torchvision_stand_in():
        return importlib.import_module("cn_clip.clip.utils")
