"""Recall on held-out pictures of the demonstration model in every runtime and precision.

    python -m examples.demo.yardstick

prints two Markdown tables, for pictures drawn by chance and for near twins, and exits with 1
if a recall strays from PyTorch's by more than 0.2 points. The pictures take a worker's way:
decode, preprocess, engine, normalise.

Where PyTorch and TensorRT are in different interpreters, one keeps its vectors for the other:

    python3.10 -m examples.demo.yardstick --runtimes tensorrt-fp16 --save vectors.npz
    python3.12 -m examples.demo.yardstick --with vectors.npz
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfleet.architectures import Tower, load_architecture
from clipfleet.errors import ClipfleetError
from clipfleet.model_card import load_card
from clipfleet.settings import load_settings
from clipfleet.workers.engines.base import Engine, l2_normalise
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.images.decode import decode
from clipfleet.workers.images.preprocess import preprocess_batch
from clipfleet.workers.text.tokenizer import Tokenizer
from examples.demo.saved_vectors import SavedVectors, digests
from examples.demo.scenes import Picture, close_pictures, jpeg, pictures

HERE = Path(__file__).parent
SEED = 1
KS = (1, 5, 10)
TOLERANCE = 0.2  # points
MAX_PIXELS = 1 << 20
REFERENCE = "PyTorch fp32"
NAMES = {  # of `--runtimes`, and in the table
    "pytorch": REFERENCE,
    "onnx-fp32": "ONNX fp32",
    "onnx-fp16": "ONNX fp16",
    "tensorrt-fp32": "TensorRT fp32",
    "tensorrt-fp16": "TensorRT fp16",
}
DEFAULT_RUNTIMES = ("pytorch", "onnx-fp32", "onnx-fp16")
DRAWN = {"by chance": pictures, "near twins": close_pictures}

Vectors = NDArray[np.float32]
Inputs = dict[str, NDArray[np.float32] | NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Recall@1, @5 and @10 in per cent; the mean recall is their mean."""

    at: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.at) / len(self.at)

    @property
    def numbers(self) -> tuple[float, ...]:
        return (*self.at, self.mean)


def recall(queries: Vectors, gallery: Vectors) -> Recall:
    """Return the recall of n queries (n, D), each of which has its gold in the same row.

    A tie, or a NaN, counts against the gold.
    """
    cosines = queries @ gallery.T
    gold = np.diagonal(cosines)[:, None]
    nearer = len(gallery) - 1 - (cosines < gold).sum(axis=1)
    return Recall(at=tuple(100.0 * float((nearer < k).mean()) for k in KS))


def make_inputs(chosen: list[Picture]) -> Inputs:
    """Return the image tower's pixels, and the text tower's ids in both languages."""
    architecture = load_architecture("demo")
    images = [decode(jpeg(p), p.id, MAX_PIXELS)[0] for p in chosen]
    tokenizer, length = Tokenizer(), architecture.context_length
    return {
        "images": preprocess_batch(images, architecture.resolution),
        "Chinese": tokenizer.encode([p.chinese for p in chosen], length),
        "English": tokenizer.encode([p.english for p in chosen], length),
    }


def vectors_of(inputs: Inputs, open_engine: Callable[[Tower], Engine]) -> dict[str, Vectors]:
    """Return the normalised vectors of all inputs, from one runtime's two engines."""
    with ExitStack() as stack:
        image, text = (stack.enter_context(open_engine(tower)) for tower in ("img", "txt"))
        return {
            name: l2_normalise((image if name == "images" else text)(array))
            for name, array in inputs.items()
        }


def runtimes(
    prefix: Path, chosen: Sequence[str] = DEFAULT_RUNTIMES
) -> Iterator[tuple[str, Callable[[Tower], Engine]]]:
    """Yield the name of each chosen runtime, and what opens an engine of it."""
    for runtime in chosen:
        if runtime == "pytorch":
            yield NAMES[runtime], torch_opener(prefix)
        else:
            yield NAMES[runtime], partial(open_file, prefix, runtime)


def open_file(prefix: Path, runtime: str, tower: Tower) -> Engine:
    """Open the engine of an ONNX or TensorRT file beside the others of its model."""
    kind, precision = runtime.split("-")
    suffix = {"onnx": "onnx", "tensorrt": "trt"}[kind]
    return load_engine(f"{prefix}.{tower}.{precision}.{suffix}", load_settings())


def torch_opener(prefix: Path) -> Callable[[Tower], Engine]:
    from clipfleet.convert.checkpoints.torch_engine import open_torch_engine

    def open_engine(tower: Tower) -> Engine:
        card, _ = load_card(f"{prefix}.{tower}.fp32.onnx")
        return open_torch_engine(f"{prefix}.pt", card)

    return open_engine


def main() -> None:
    arguments = parse_arguments()
    try:
        if arguments.save:
            save(arguments)
            return
        largest = max(print_table(title, arguments) for title in DRAWN)
    except (ClipfleetError, ValueError, OSError) as error:
        sys.exit(f"yardstick: {error}")
    print(f"\nLargest difference from {REFERENCE}: {largest:.2f} points.")
    if largest > TOLERANCE:
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recall in every runtime and precision.")
    add = parser.add_argument
    add("--pictures", type=int, default=1000, help="default: %(default)s")
    add("--model", type=Path, default=HERE / "model" / "demo", help="prefix of the model's files")
    add(
        "--runtimes",
        nargs="+",
        choices=NAMES,
        default=list(DEFAULT_RUNTIMES),
        help=f"default: {' '.join(DEFAULT_RUNTIMES)}; PyTorch is what the others are held against",
    )
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--save", type=Path, help="keep the vectors in this file, print no table")
    files.add_argument(
        "--with",
        dest="saved",
        type=Path,
        action="append",
        default=[],
        help="add the runtimes whose vectors --save kept in this file",
    )
    arguments = parser.parse_args()
    if not arguments.save and "pytorch" not in arguments.runtimes:
        parser.error("a table needs pytorch among --runtimes: give it, or --save")
    return arguments


def draw_inputs(title: str, count: int) -> Inputs:
    return make_inputs(DRAWN[title](count=count, seed=SEED, split="held-out"))


def save(arguments: argparse.Namespace) -> None:
    """Keep the vectors of the chosen runtimes in a file."""
    kept = SavedVectors(checkpoint_of(arguments.model))
    for title in DRAWN:
        inputs = draw_inputs(title, arguments.pictures)
        found = {
            name: vectors_of(inputs, open_engine)
            for name, open_engine in runtimes(arguments.model, arguments.runtimes)
        }
        kept.add(title, digests(inputs), found)
    kept.write(arguments.save)
    print(f"vectors of {', '.join(NAMES[name] for name in arguments.runtimes)}: {arguments.save}")


def print_table(title: str, arguments: argparse.Namespace) -> float:
    """Print the recalls of every runtime; return the largest difference, in points."""
    print(f"\n{arguments.pictures} held-out pictures, {title}:\n")
    inputs = draw_inputs(title, arguments.pictures)
    kept = [SavedVectors.read(path) for path in arguments.saved]
    for saved in kept:
        saved.check_weights(checkpoint_of(arguments.model))
    notes = [note for saved in kept if (note := saved.check(title, digests(inputs)))]
    # PyTorch first: the others are held against it.
    chosen = sorted(arguments.runtimes, key=list(NAMES).index)
    found = {name: vectors_of(inputs, opener) for name, opener in runtimes(arguments.model, chosen)}
    for saved in kept:
        take(saved.vectors(title), found)
    print_header()
    largest = max(print_rows(name, vectors, found[REFERENCE]) for name, vectors in found.items())
    for note in notes:
        print(f"\n{note}")
    return largest


def checkpoint_of(prefix: Path) -> str:
    """Return the SHA-256 of the weights that a model's engines were made from."""
    card, _ = load_card(f"{prefix}.img.fp32.onnx")
    return card.checkpoint_sha256


def take(saved: dict[str, dict[str, Vectors]], found: dict[str, dict[str, Vectors]]) -> None:
    """Add saved vectors to those at hand.

    Raises:
        ValueError: A runtime's are there already.
    """
    if twice := saved.keys() & found.keys():
        raise ValueError(
            f"the vectors of {', '.join(sorted(twice))} are there twice: leave the runtime out of "
            "--runtimes, or a file out of --with"
        )
    found |= saved


def print_header() -> None:
    columns = ["R@1", "R@5", "R@10", "mean"]
    both = [f"{way} {c}" for way in ("text→image", "image→text") for c in columns]
    print("| engine | captions | " + " | ".join(both) + " | least cosine |")
    print("|---|---|" + "---:|" * (len(both) + 1))


def print_rows(name: str, vectors: dict[str, Vectors], reference: dict[str, Vectors]) -> float:
    """Print a runtime's rows; return its largest difference from the reference, in points."""
    largest = 0.0
    for language in ("Chinese", "English"):
        numbers, expected = (recalls(v, language) for v in (vectors, reference))
        largest = max(largest, *(abs(a - b) for a, b in zip(numbers, expected, strict=True)))
        cosine = min(
            float(np.einsum("nd,nd->n", vectors[key], reference[key]).min())
            for key in ("images", language)
        )
        cells = " | ".join(f"{number:.1f}" for number in numbers)
        print(f"| {name} | {language} | {cells} | {cosine:.6f} |", flush=True)
    return largest


def recalls(vectors: dict[str, Vectors], language: str) -> tuple[float, ...]:
    images, texts = vectors["images"], vectors[language]
    return (*recall(texts, images).numbers, *recall(images, texts).numbers)


if __name__ == "__main__":
    main()
