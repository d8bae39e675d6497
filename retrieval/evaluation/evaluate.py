"""The guide's downstream evaluation: text to image, image to text, and the prediction files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from clipfleet.errors import StorageError, UsageError
from clipfleet.retrieval.evaluation.gold import Answers, GoldPairs
from clipfleet.retrieval.evaluation.predictions import (
    PredictionFile,
    Query,
    are_whole_numbers,
    open_predictions,
)
from clipfleet.retrieval.evaluation.recall import TOP, Recall, recall
from clipfleet.retrieval.evaluation.vector_set import VectorSet, check_towers

Show = Callable[[str, int, int], None]  # a direction, so many of so many pairs

_NAMES: dict[Query, str] = {"text": "text to image", "image": "image to text"}
_FILES: dict[Query, str] = {  # the guide's, without the name of the split
    "text": "predictions.jsonl",
    "image": "tr_predictions.jsonl",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The recall of both directions; `predictions` are the files that were written.

    `unscored_texts` counts texts with a vector that the gold file does not have. `notes` say what
    the original's evaluation scripts refuse in the prediction files.
    """

    images: str
    texts: str
    gold: str
    text_to_image: Recall
    image_to_text: Recall
    unscored_texts: int
    predictions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """The number of gold texts and gold images that have no vector."""
        both = (self.text_to_image, self.image_to_text)
        return sum(one.failed + one.absent for one in both)

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types; recalls are in per cent."""
        return {
            "images": self.images,
            "texts": self.texts,
            "gold": self.gold,
            "text_to_image": self.text_to_image.to_json(),
            "image_to_text": self.image_to_text.to_json(),
            "unscored_texts": self.unscored_texts,
            "predictions": list(self.predictions),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        lines = [
            f"{self.images} and {self.texts}, gold pairs of {self.gold}",
            f"{'per cent':14} {'R@1':>7} {'R@5':>7} {'R@10':>7} {'mean':>7} {'queries':>10}",
            _row(_NAMES["text"], self.text_to_image),
            _row(_NAMES["image"], self.image_to_text),
        ]
        for kind, one in (("texts", self.text_to_image), ("images", self.image_to_text)):
            if one.failed or one.absent:
                lines.append(
                    f"  gold {kind} without a vector, counted as misses: {one.failed:,} failed, "
                    f"{one.absent:,} are not in the dataset"
                )
        if self.unscored_texts:
            lines.append(f"  {self.unscored_texts:,} texts are not in the gold file: not scored")
        lines += [f"  wrote {path}" for path in self.predictions]
        return lines + [f"  {note}" for note in self.notes]


def evaluate(
    images: VectorSet,
    texts: VectorSet,
    gold: GoldPairs,
    *,
    predictions: Path | None = None,
    show: Show | None = None,
) -> Evaluation:
    """Measure the recall of texts against images, and of images against texts.

    Every query is compared with every vector, block by block. With `predictions`, a folder, the
    ten best answers of every text and of every image are written there, as `predictions.jsonl` and
    `tr_predictions.jsonl`. `show` is called with a direction, and so many of so many pairs.

    Raises:
        UsageError: The vectors are of two models, or no gold text or gold image has a vector.
        DatasetError: A part is damaged, or was moved away or replaced.
        StorageError: A prediction file cannot be written.
    """
    check_towers(images, texts)
    _check_ids(texts, gold.images_of, gold, kind="text")
    _check_ids(images, gold.texts_of, gold, kind="image")
    whole = predictions is not None and are_whole_numbers(chain(texts.ids, images.ids))
    run = partial(_direction, folder=predictions, whole_numbers=whole, show=show)
    text_to_image = run("text", texts, images, gold.images_of)
    image_to_text = run("image", images, texts, gold.texts_of)
    files = _FILES.values() if predictions else ()
    return Evaluation(
        images=images.path,
        texts=texts.path,
        gold=gold.origin,
        text_to_image=text_to_image,
        image_to_text=image_to_text,
        unscored_texts=sum(id_ not in gold.images_of for id_ in texts.ids),
        predictions=tuple(f"{predictions}/{name}" for name in files),
        notes=tuple(_refusals(images, texts, whole_numbers=whole)) if predictions else (),
    )


def _direction(
    query: Query,
    queries: VectorSet,
    corpus: VectorSet,
    answers: Answers,
    *,
    folder: Path | None,
    whole_numbers: bool,
    show: Show | None,
) -> Recall:
    with _file(folder, query, whole_numbers=whole_numbers) as file:
        told = partial(show, _NAMES[query]) if show else None
        return recall(queries, corpus, answers, predictions=file, show=told)


def _check_ids(vectors: VectorSet, answers: Answers, gold: GoldPairs, *, kind: str) -> None:
    if not any(id_ in answers for id_ in vectors.ids):
        here, there = next(iter(vectors.ids), None), next(iter(answers))
        raise UsageError(
            f"no {kind} of {gold.origin} has a vector in {vectors.path}: the file has ids such as "
            f"{there!r}, and the dataset {'none' if here is None else repr(here)}: name the "
            "dataset that was made of the same items, with the same ids"
        )


@contextmanager
def _file(
    folder: Path | None, query: Query, *, whole_numbers: bool
) -> Iterator[PredictionFile | None]:
    if folder is None:
        yield None
        return
    path = folder / _FILES[query]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_predictions(path, query, whole_numbers=whole_numbers) as file:
            yield file
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _refusals(images: VectorSet, texts: VectorSet, *, whole_numbers: bool) -> Iterator[str]:
    """Yield what the original's evaluation.py and evaluation_tr.py will not take."""
    if not whole_numbers:
        yield (
            "not all ids are whole numbers: the files hold them as strings, which the original's "
            "evaluation scripts refuse"
        )
    for kind, count in (("images", len(images.ids)), ("texts", len(texts.ids))):
        if count < TOP:
            yield (
                f"there are {count} {kind}, and the original's evaluation scripts want {TOP} "
                "predictions a query"
            )


def _row(name: str, one: Recall) -> str:
    return (
        f"{name:14} {one.r1:7.2f} {one.r5:7.2f} {one.r10:7.2f} {one.mean_recall:7.2f} "
        f"{one.queries:10,}"
    )
