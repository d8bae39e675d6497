"""The model card: a JSON file beside an engine, which describes the engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipfleet.architectures import Tower
from clipfleet.atomic_write import atomic_write
from clipfleet.errors import CardError
from clipfleet.validation import problems

Precision = Literal["fp32", "fp16"]
Runtime = Literal["onnxruntime", "tensorrt", "torch", "fake"]

CARD_SUFFIX = ".card.json"
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TensorSpec:
    """An engine's input or output; a dimension that is None in `shape` is free at run time."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str  # NumPy's name


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MeasuredOn:
    """The engine file, runtime and GPU of a parity measurement; it is valid for these only."""

    engine_sha256: str
    runtime_version: str
    gpu: str


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Parity:
    """The similarity of the engine's outputs to the reference's, measured on real items.

    `cosine_min` is the worst item's cosine; `max_abs_diff` is the largest difference
    between two elements of the unnormalised outputs. `cosine_between_items` is the mean
    cosine of two different items' reference outputs: a value near 1 means that `cosine_min`
    says little.
    """

    reference: str
    items: int
    cosine_min: float
    cosine_mean: float
    max_abs_diff: float
    threshold: float
    cosine_between_items: float | None = None  # None: only one item was measured
    measured_on: MeasuredOn | None = None  # None: the engine computes the same on every machine
    overlap: float | None = None  # of nearest neighbours with the reference's; None: no gate
    overlap_items: int | None = None  # in the gate's sample

    @property
    def passed(self) -> bool:
        return self.cosine_min >= self.threshold


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BatchProfile:
    """The range of batch sizes of a TensorRT engine, and the size that it is tuned for."""

    smallest: int
    optimum: int
    largest: int


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Build:
    """How a TensorRT engine was built.

    `onnx_sha256` is the hash of the source graph's file. `timing_cache` is the name of the cache
    file that the build read and extended, or None. `typing` says whether the builder (weak) or
    the ONNX file (strong) chose the precision of each layer.
    """

    onnx: str
    onnx_sha256: str
    seconds: float
    optimization_level: int | None  # None: this TensorRT version has no levels
    workspace_bytes: int | None  # None: no limit below the GPU's memory
    timing_cache: str | None
    typing: Literal["weak", "strong"]
    fp32_ops: tuple[str, ...] = ()  # ONNX operators kept in float32
    candidates: int = 1  # engines built; this one is the fastest
    size_bytes: int | None = None  # of the engine's file; None in older cards


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelCard:
    """The description of an engine: its model, tower, files, tensors and verification.

    `engine` and `extra_file` are file names beside the card; an ONNX file whose weights lie outside
    it names its extra file, and no other. `input.shape[0]` is the batch
    size, or None if the engine accepts any. `logit_scale` is the checkpoint's parameter, whose
    exponential multiplies cosines.
    """

    architecture: str
    tower: Tower
    runtime: Runtime
    precision: Precision
    engine: str
    engine_sha256: str
    input: TensorSpec
    output: TensorSpec
    logit_scale: float
    checkpoint_sha256: str
    runtime_version: str
    extra_file: str | None = None
    extra_file_sha256: str | None = None
    gpu: str | None = None  # TensorRT: the GPU model that it was built for
    compute_capability: str | None = None  # "9.0"
    profile: BatchProfile | None = None  # TensorRT
    build: Build | None = None  # TensorRT
    parity: Parity | None = None
    created_at: str | None = None  # ISO 8601, UTC
    format: Literal[1] = 1

    @property
    def dim(self) -> int:
        """The width D of the vectors."""
        return _fixed(self.output, -1)

    @property
    def resolution(self) -> int:
        """The side S of the image input (n, 3, S, S), in pixels; image tower only."""
        return _fixed(self.input, -1)

    @property
    def context_length(self) -> int:
        """The length L of the text input (n, L), in tokens; text tower only."""
        return _fixed(self.input, -1)

    @property
    def batch_size(self) -> int | None:
        """Items in a call: a fixed number, or None if the engine accepts any."""
        return self.input.shape[0]

    @property
    def identity(self) -> str:
        """The model's identity, a hexadecimal SHA-256; equal identities give comparable vectors.

        It covers weights, tower, precision, input size and width, but neither the engine's bytes
        nor the machine or runtime.
        """
        parts = [
            self.architecture,
            self.tower,
            self.precision,
            self.checkpoint_sha256,
            self.input.shape[1:],
            self.output.shape[1:],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the card as indented JSON text."""
        return _CARD.dump_json(self, indent=2).decode() + "\n"


_CARD = TypeAdapter(ModelCard)


def _fixed(tensor: TensorSpec, axis: int) -> int:
    size = tensor.shape[axis]
    if size is None:
        raise CardError(f"dimension {axis} of {tensor.name!r} has no fixed size in {tensor.shape}")
    return size


def card_path(engine: str | Path) -> Path:
    """Return the path of an engine file's card: `<engine>.card.json`."""
    return Path(f"{engine}{CARD_SUFFIX}")


def parse_card(text: str | bytes, *, origin: str) -> ModelCard:
    """Return the card that `text` holds.

    Raises:
        CardError: The text is not JSON or does not match the card's schema.
    """
    try:
        return _CARD.validate_python(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        raise CardError(
            f"model card {origin} does not fit the schema: {problems(error)}"
        ) from error


def load_card(path: str | Path) -> tuple[ModelCard, Path]:
    """Return a card and its engine's path; `path` names either of the two.

    A link is looked up by its own name first, as in a cache of Hugging Face, and then by the names
    that it leads to.

    Raises:
        CardError: The card or its engine is missing, or the card does not match its schema.
    """
    cards = [_card_of(name) for name in _names(Path(path))]
    path = next((card for card in cards if card.is_file()), cards[0])
    if not path.is_file():
        engine = Path(str(path).removesuffix(CARD_SUFFIX))
        if engine.suffix == ".trt" and engine.is_file():
            raise CardError(
                f"{engine} has no model card: `clipfleet adopt {engine}` verifies the engine on "
                "this machine and writes a card"
            )
        raise CardError(
            f"no model card at {path}: name a {CARD_SUFFIX} file or the engine beside it "
            "(`clipfleet convert` writes both)"
        )
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CardError(f"model card {path} cannot be read: {error.strerror}") from error
    card = parse_card(text, origin=str(path))
    for name in _names(path):
        if (name.parent / card.engine).is_file():
            return card, name.parent / card.engine
    raise CardError(f"model card {path} names the engine {card.engine}, which is not beside it")


def _names(path: Path) -> Iterator[Path]:
    """Yield a path, and if it is a link, the paths that lead to its file."""
    yield path
    while path.is_symlink() and path.is_file():
        path = path.parent / path.readlink()
        yield path


def _card_of(path: Path) -> Path:
    """Return the path of the card of a card or of an engine."""
    is_engine = path.is_file() and not path.name.endswith(CARD_SUFFIX)
    return card_path(path) if is_engine else path


def write_card(card: ModelCard, path: Path) -> None:
    """Write a card at `path`, atomically."""
    with atomic_write(path) as part:
        part.write_text(card.to_json(), encoding="utf-8")
