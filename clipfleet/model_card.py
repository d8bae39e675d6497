"""The model card: the JSON file beside an engine that says what the engine is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipfleet.architectures import Tower
from clipfleet.atomic_write import whole_file
from clipfleet.errors import CardError, EngineDamagedError
from clipfleet.validation import problems

Precision = Literal["fp32", "fp16"]
Runtime = Literal["onnxruntime", "tensorrt", "torch", "fake"]

CARD_SUFFIX = ".card.json"
_CHUNK_BYTES = 1 << 20
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TensorSpec:
    """An engine's input or output; a `None` in `shape` is a dimension chosen at run time."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str  # NumPy's name


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MeasuredOn:
    """Which engine file a parity was measured with, and on what: it proves no other."""

    engine_sha256: str
    runtime_version: str
    gpu: str


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Parity:
    """How close the engine's outputs are to the reference's on real items.

    `cosine_min` is the worst item's cosine; `max_abs_diff` is the largest difference
    between two elements of the unnormalised outputs. `cosine_between_items` is the mean
    cosine of two different items' reference outputs: the nearer it is to 1, the less
    `cosine_min` proves.
    """

    reference: str
    items: int
    cosine_min: float
    cosine_mean: float
    max_abs_diff: float
    threshold: float
    cosine_between_items: float | None = None  # None where there is one item
    measured_on: MeasuredOn | None = None  # None for engines that run alike on every machine

    @property
    def passed(self) -> bool:
        return self.cosine_min >= self.threshold


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BatchProfile:
    """The batch sizes that a TensorRT engine takes, and the one that it was tuned for."""

    smallest: int
    optimum: int
    largest: int


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Build:
    """How a TensorRT engine was built.

    `onnx_sha256` is of the graph file that it was built from, `timing_cache` the name of the
    cache file that was read and extended, None without one. `typing` says who chose the
    precision of each layer: the builder (weak), or the ONNX file (strong).
    """

    onnx: str
    onnx_sha256: str
    seconds: float
    optimization_level: int | None  # None: the version has none
    workspace_bytes: int | None  # None: all of the GPU's memory
    timing_cache: str | None
    typing: Literal["weak", "strong"]
    fp32_ops: tuple[str, ...] = ()  # ONNX operators that were kept in float32
    candidates: int = 1  # engines that were built, of which this is the fastest
    size_bytes: int | None = None  # of the engine's file; None: an older card


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelCard:
    """What an engine is: which model, which tower, which tensors, and how it was proved.

    `engine` and `extra_file` are file names beside the card. `input.shape[0]` is the
    batch size, `None` where the engine takes any. `logit_scale` is the checkpoint's
    parameter: cosines are multiplied by exp(logit_scale).
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
    gpu: str | None = None  # TensorRT: the GPU model that it was built for and runs on
    compute_capability: str | None = None  # "9.0"
    profile: BatchProfile | None = None  # TensorRT
    build: Build | None = None  # TensorRT
    parity: Parity | None = None
    created_at: str | None = None  # ISO 8601, UTC
    format: Literal[1] = 1

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return _fixed(self.output, -1)

    @property
    def resolution(self) -> int:
        """Side S of the image input (n, 3, S, S), in pixels; image tower only."""
        return _fixed(self.input, -1)

    @property
    def context_length(self) -> int:
        """Length L of the text input (n, L), in tokens; text tower only."""
        return _fixed(self.input, -1)

    @property
    def batch_size(self) -> int | None:
        """Items a call: a fixed number, or None where the engine takes any."""
        return self.input.shape[0]

    @property
    def identity(self) -> str:
        """Hexadecimal SHA-256 of what makes two cards' vectors comparable.

        The same weights, tower, precision and input size on another machine or runtime
        are the same model; the engine's bytes are not part of it.
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
    """Return where the card of an engine file lies: `<engine>.card.json`."""
    return Path(f"{engine}{CARD_SUFFIX}")


def parse_card(text: str | bytes, *, origin: str) -> ModelCard:
    """Return the card that `text` holds.

    Raises:
        CardError: The text is not JSON, or does not fit the card's schema.
    """
    try:
        return _CARD.validate_python(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        raise CardError(
            f"model card {origin} does not fit the schema: {problems(error)}"
        ) from error


def load_card(path: str | Path) -> tuple[ModelCard, Path]:
    """Return the card at `path`, or of the engine at `path`, with the engine's path.

    Raises:
        CardError: The card or its engine is missing, or the card does not fit its schema.
    """
    path = Path(path)
    if path.is_file() and not path.name.endswith(CARD_SUFFIX):
        path = card_path(path)
    if not path.is_file():
        engine = Path(str(path).removesuffix(CARD_SUFFIX))
        if engine.suffix == ".trt" and engine.is_file():
            raise CardError(
                f"{engine} has no model card: `clipfleet adopt {engine}` proves it on this machine "
                "and writes one"
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
    engine = path.parent / card.engine
    if not engine.is_file():
        raise CardError(f"model card {path} names the engine {card.engine}, which is not beside it")
    return card, engine


def check_files(card: ModelCard, engine_path: Path) -> None:
    """Check an engine file, and its extra file, against the card's SHA-256.

    Raises:
        EngineDamagedError: A file is missing, unreadable, or not the card's.
    """
    _check_file(engine_path, card.engine_sha256)
    if card.extra_file is not None:
        _check_file(engine_path.parent / card.extra_file, card.extra_file_sha256)


def read_engine(path: Path, card: ModelCard | None) -> bytes:
    """Return an engine file's bytes, checked against the card's SHA-256 where there is a card.

    What is run must be these bytes: a file that is checked and then read again may have been
    replaced in between.

    Raises:
        EngineDamagedError: The file is missing, unreadable, or not the card's.
    """
    with _readable(path):
        data = path.read_bytes()
    if card is not None:
        _check_sha256(path, hashlib.sha256(data).hexdigest(), card.engine_sha256)
    return data


def _check_file(path: Path, expected: str | None) -> None:
    with _readable(path):
        actual = sha256_of(path)
    _check_sha256(path, actual, expected)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise EngineDamagedError(
            f"engine file {path} is missing: an engine and its extra file go together"
        )
    try:
        yield
    except OSError as error:
        raise EngineDamagedError(f"engine file {path} cannot be read: {error.strerror}") from error


def _check_sha256(path: Path, actual: str, expected: str | None) -> None:
    if actual != expected:
        raise EngineDamagedError(
            f"{path} has SHA-256 {actual}, and its card says {expected}: it is damaged or another "
            "model's; copy engine, extra file and card anew, or convert again"
        )


def write_card(card: ModelCard, path: Path) -> None:
    """Write a card at `path`; it appears whole or not at all."""
    with whole_file(path) as part:
        part.write_text(card.to_json(), encoding="utf-8")


def sha256_of(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
