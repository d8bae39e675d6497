"""Chinese-CLIP in PyTorch: every architecture that `clipfleet.architectures` describes.

The state dict has the keys and shapes of the published checkpoints (cn_clip 1.6.0), so
both load each other's. Dropout is left out: the model is for inference and for training
small models without it.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from clipfleet.architectures import Architecture, VisionTransformer
from clipfleet.convert.model.bert import Bert
from clipfleet.convert.model.layers import LayerNorm
from clipfleet.convert.model.vision import ModifiedResNetTower, VisionTransformerTower

_INITIAL_TEMPERATURE = 0.07

Module = TypeVar("Module", bound=nn.Module)


class ChineseClip(nn.Module):
    """Both towers of a model; features are not normalised.

    Source: Chinese CLIP, arXiv:2211.01335, and CLIP, arXiv:2103.00020.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.visual = _image_tower(architecture)
        self.bert = Bert(architecture.text)
        width = architecture.text.width
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, architecture.dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / _INITIAL_TEMPERATURE)))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the features: float32, or float16 after `halve`."""
        return self.text_projection.dtype

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return features (n, dim) of preprocessed pixels (n, 3, S, S), of any float type."""
        out: Tensor = self.visual(pixels.to(self.dtype))
        return out

    def encode_text(self, ids: Tensor) -> Tensor:
        """Return features (n, dim) of token ids (n, L) int64, zero-padded."""
        hidden = self.bert(ids)  # (n, L, width)
        out: Tensor = hidden[:, 0] @ self.text_projection
        return out


def _image_tower(architecture: Architecture) -> VisionTransformerTower | ModifiedResNetTower:
    vision, resolution, dim = architecture.vision, architecture.resolution, architecture.dim
    if isinstance(vision, VisionTransformer):
        return VisionTransformerTower(vision, resolution, dim)
    return ModifiedResNetTower(vision, resolution, dim)


def halve(model: Module) -> Module:
    """Turn a model's weights into float16 in place, but for its norms' and `logit_scale`."""
    for module in model.modules():
        if isinstance(module, (LayerNorm, nn.BatchNorm2d)):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if name != "logit_scale":
                parameter.data = parameter.data.half()
    return model
