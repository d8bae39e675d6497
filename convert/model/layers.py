"""Layers of both towers: a LayerNorm and an attention that stay exact in a float16 model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class LayerNorm(nn.LayerNorm):
    """Normalises in float32 and gives back the input's type.

    Its weights stay float32 in a float16 model: a variance overflows float16 from an
    activation of 256 on, and an eps of 1e-12 is 0 there.
    """

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = functional.layer_norm(
            x.float(), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return normal.to(x.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return (n, L, width) as (n, heads, L, width / heads)."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Return (n, heads, L, head width) as (n, L, width)."""
    return x.transpose(1, 2).flatten(2)


def thirds(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three equal parts of the last axis, as slices.

    `Split` changed between ONNX opsets 17 and 18; `Slice` is the same in both.
    """
    width = x.shape[-1] // 3
    return x[..., :width], x[..., width : 2 * width], x[..., 2 * width :]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(q·kᵀ / √width + mask)·v for (n, heads, L, width) tensors.

    The query is scaled before the product, so that float16 holds the scores. `mask` is
    float32 and broadcasts to the scores. With a mask, softmax is float32 in every model.
    Without a mask, softmax has the model's type, so a runtime can fuse it with both products.
    The runtimes tested here sum it in float32; a float16 sum stays within the threshold (see
    the tests of float16's safety).
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is None:
        return torch.softmax(scores, dim=-1) @ value
    return torch.softmax(scores.float() + mask, dim=-1).to(value.dtype) @ value
