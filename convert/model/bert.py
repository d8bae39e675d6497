"""The text tower: BERT without its pooler.

Attribute names are those of the published checkpoints' keys.
"""

from __future__ import annotations

from torch import Tensor, nn

from clipfleet.architectures import TextTransformer
from clipfleet.convert.model.layers import LayerNorm, attend, merge_heads, split_heads

PADDING_ID = 0
_MASKED = -10000.0  # added to the scores of padding
_INITIAL_STD = 0.02


class Embeddings(nn.Module):
    """Token ids (n, L) to (n, L, width): word, position and the one token type, normalised."""

    def __init__(self, text: TextTransformer) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(
            text.vocabulary_size, text.width, padding_idx=PADDING_ID
        )
        self.position_embeddings = nn.Embedding(text.max_positions, text.width)
        self.token_type_embeddings = nn.Embedding(text.token_types, text.width)
        self.LayerNorm = LayerNorm(text.width, eps=text.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: ids.shape[1]]
        x = self.word_embeddings(ids) + positions + self.token_type_embeddings.weight[0]
        out: Tensor = self.LayerNorm(x)
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention before its output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            split_heads(linear(x), self.heads) for linear in (self.query, self.key, self.value)
        )
        return merge_heads(attend(query, key, value, mask))


class Output(nn.Module):
    """A projection, the residual added, then normalised."""

    def __init__(self, inputs: int, text: TextTransformer) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, text.width)
        self.LayerNorm = LayerNorm(text.width, eps=text.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(x) + residual)
        return out


class Attention(nn.Module):
    """The attention half of a layer; `self` is its name in the checkpoints."""

    def __init__(self, text: TextTransformer) -> None:
        super().__init__()
        self.self = SelfAttention(text.width, text.heads)
        self.output = Output(text.width, text)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.output(self.self(x, mask), x)
        return out


class Intermediate(nn.Module):
    """The wide half of the feed-forward network, with the exact GELU."""

    def __init__(self, text: TextTransformer) -> None:
        super().__init__()
        self.dense = nn.Linear(text.width, text.intermediate_width)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.dense(x))


class Layer(nn.Module):
    """A post-norm transformer layer."""

    def __init__(self, text: TextTransformer) -> None:
        super().__init__()
        self.attention = Attention(text)
        self.intermediate = Intermediate(text)
        self.output = Output(text.intermediate_width, text)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        out: Tensor = self.output(self.intermediate(x), x)
        return out


class Encoder(nn.Module):
    """The layers, in order."""

    def __init__(self, text: TextTransformer) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(text) for _ in range(text.layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class Bert(nn.Module):
    """Token ids (n, L) int64 to the last hidden states (n, L, width); id 0 is padding."""

    def __init__(self, text: TextTransformer) -> None:
        super().__init__()
        self.embeddings = Embeddings(text)
        self.encoder = Encoder(text)
        self.apply(_initialise)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids == PADDING_ID).float() * _MASKED  # (n, L), float32 in every model
        out: Tensor = self.encoder(self.embeddings(ids), mask[:, None, None, :])
        return out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=_INITIAL_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
