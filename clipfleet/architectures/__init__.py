"""The architectures of Chinese-CLIP models, described by JSON files.

The five published architectures and the demo's are files in `clipfleet/architectures/`. A
smaller or larger model needs a file of the same form and no code: every function and option
that takes an architecture's name takes the path of such a file, too.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipfleet.errors import ArchitectureError
from clipfleet.validation import problems

Tower = Literal["img", "txt"]
TOWERS: tuple[Tower, ...] = ("img", "txt")

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class VisionTransformer:
    """A pre-norm vision transformer with a class token; `head_width` is width / heads."""

    kind: Literal["vit"]
    layers: PositiveInt
    width: PositiveInt
    head_width: PositiveInt
    patch_size: PositiveInt


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModifiedResNet:
    """CLIP's ResNet: a stem of three convolutions, anti-aliased strides, attention pooling."""

    kind: Literal["resnet"]
    layers: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    width: PositiveInt
    heads: PositiveInt


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TextTransformer:
    """A BERT encoder; the feature is the last hidden state of [CLS], projected."""

    vocabulary_size: PositiveInt
    layers: PositiveInt
    width: PositiveInt
    heads: PositiveInt
    intermediate_width: PositiveInt
    max_positions: PositiveInt = 512
    token_types: PositiveInt = 2
    layer_norm_eps: float = 1e-12


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PublishedCheckpoint:
    """The source of the original weights: a Hugging Face repository and a file in it."""

    repository: str
    file: str


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Architecture:
    """Both towers of a model; `dim` is the width of the vectors of both."""

    name: str
    dim: PositiveInt
    resolution: PositiveInt
    vision: Annotated[VisionTransformer | ModifiedResNet, Field(discriminator="kind")]
    text: TextTransformer
    context_length: PositiveInt = 52
    published: PublishedCheckpoint | None = None


_ARCHITECTURE = TypeAdapter(Architecture)


@cache
def architecture_names() -> tuple[str, ...]:
    """Return the names that `load_architecture` knows, sorted."""
    files = (resources.files("clipfleet") / "architectures").iterdir()
    return tuple(sorted(f.name.removesuffix(".json") for f in files if f.name.endswith(".json")))


def load_architecture(name_or_path: str | Path) -> Architecture:
    """Return the architecture of a known name, or of a JSON file.

    Raises:
        ArchitectureError: The name is unknown, or the file does not fit the schema.
    """
    name = str(name_or_path)
    if name in architecture_names():
        text = (resources.files("clipfleet") / "architectures" / f"{name}.json").read_text()
        return _parse(text, origin=name)
    path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(architecture_names())
        raise ArchitectureError(
            f"unknown architecture {name!r}: expected one of {known}, or the path of a JSON file"
        )
    return _parse(path.read_bytes(), origin=name)


def _parse(text: str | bytes, *, origin: str) -> Architecture:
    try:
        return _ARCHITECTURE.validate_python(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        raise ArchitectureError(
            f"architecture {origin!r} does not fit the schema: {problems(error)}"
        ) from error
