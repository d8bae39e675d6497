"""Print the nearest pictures of some captions, from two datasets.

    python examples/demo/nearest.py OUT/vectors/images OUT/vectors/captions --texts 3

--ids chooses the captions; --query asks for a text of your own, which --model's text tower
embeds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

import clipfleet

NEAREST = 5
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The rows of a dataset: n ids, n uris or texts, and float32 (n, D) of norm 1."""

    ids: list[str]
    values: list[str]
    embeddings: NDArray[np.float32]

    def rows(self, ids: Sequence[str]) -> Vectors:
        """Return the rows of some ids, in their order."""
        row_of = {id_: row for row, id_ in enumerate(self.ids)}
        missing = [id_ for id_ in ids if id_ not in row_of]
        if missing:
            raise SystemExit(f"no caption has the id {missing[0]!r}: an example is {self.ids[0]!r}")
        rows = [row_of[id_] for id_ in ids]
        return Vectors(
            ids=list(ids),
            values=[self.values[row] for row in rows],
            embeddings=self.embeddings[rows],
        )


def read(dataset: Path, column: str) -> Vectors:
    """Return a dataset's rows; `column` is uri or text."""
    opened = clipfleet.Dataset(dataset)
    return Vectors(
        ids=list(opened.ids),
        values=opened.to_arrow()[column].to_pylist(),
        embeddings=opened.vectors().astype(np.float32),
    )


def embed_query(text: str, model: Path) -> Vectors:
    """Return the vector of a text."""
    try:
        with clipfleet.load_model(model) as loaded:
            return Vectors(ids=["query"], values=[text], embeddings=loaded.encode_texts([text]))
    except clipfleet.ClipfleetError as error:
        raise SystemExit(f"{text!r} has no vector: {error}") from None


def print_nearest(texts: Vectors, images: Vectors) -> None:
    cosines = texts.embeddings @ images.embeddings.T  # (texts, images)
    for id_, text, row in zip(texts.ids, texts.values, cosines, strict=True):
        print(f"\n{text}  [{id_}]")
        for rank, image in enumerate(np.argsort(-row, kind="stable")[:NEAREST], start=1):
            gold = "  <- its own" if stem(images.ids[image]) == stem(id_) else ""
            print(f"  {rank}  {row[image]:.3f}  {shown(images.values[image])}{gold}")


def stem(id_: str) -> str:
    """Return what a picture's id and its captions' ids share: 000007 of 000007.jpg, 000007.zh."""
    return id_.split(".", 1)[0]


def shown(uri: str) -> str:
    """Return a file's path, from the working folder if it is below it."""
    return os.path.relpath(uri) if uri.startswith(f"{Path.cwd()}{os.sep}") else uri


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the nearest pictures of some captions.")
    parser.add_argument("images", type=Path, help="the pictures' dataset")
    parser.add_argument("captions", type=Path, help="the captions' dataset")
    parser.add_argument("--texts", type=int, default=3, help="captions, drawn by chance")
    parser.add_argument("--ids", nargs="+", help="captions by id, instead")
    parser.add_argument("--query", help="a text of your own, instead")
    parser.add_argument(
        "--model",
        type=Path,
        default=HERE / "model" / "demo.txt.fp32.onnx",
        help="the text engine for --query; the one that made the dataset (default: %(default)s)",
    )
    arguments = parser.parse_args()
    images = read(arguments.images, "uri")
    if arguments.query is not None:
        print_nearest(embed_query(arguments.query, arguments.model), images)
        return
    captions = read(arguments.captions, "text")
    ids = arguments.ids or Random(2).sample(captions.ids, min(arguments.texts, len(captions.ids)))
    print_nearest(captions.rows(ids), images)


if __name__ == "__main__":
    main()
