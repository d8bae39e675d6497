"""Recall, and the comparison of two datasets, as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from clipfleet.errors import UsageError
from clipfleet.settings import Settings, load_settings

if TYPE_CHECKING:
    from clipfleet.model import Model
    from clipfleet.retrieval.evaluation.comparison import Comparison
    from clipfleet.retrieval.evaluation.evaluate import Evaluation
    from clipfleet.retrieval.evaluation.vector_set import EmbeddedTexts


def evaluate(
    images: str | Path,
    texts: str | Path,
    *,
    gold: str | Path | None = None,
    model: str | Path | None = None,
    predictions: str | Path | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Measure the recall of texts against images, and of images against texts, in per cent.

    Recall at k is the share of the queries that have a gold answer among their k nearest, as in
    Chinese-CLIP's evaluation. The search is exact; memory stays bounded. A query without a vector
    counts as a miss.

    Args:
        images: The dataset of the images: its folder, or `s3://bucket/prefix`.
        texts: The dataset of the texts; or a JSONL file such as `test_texts.jsonl`, whose texts
            `model` embeds in this process, after the text normalisation of Chinese-CLIP's
            evaluation.
        gold: The JSONL file of the gold pairs, `{"text_id": …, "image_ids": […]}` a line. Without
            it, the file `texts`.
        model: With a file `texts`: the model of the images, as in `embed`.
        predictions: A folder for `predictions.jsonl` and `tr_predictions.jsonl`: the ten best
            images of every text, and the ten best texts of every image.
        settings: Without them, those of `load_settings()`.
        on_progress: Called with a direction, and so many of so many compared pairs.

    Raises:
        UsageError: The datasets are of two models, the gold file has another form, or the arguments
            do not go together.
        DatasetError: A dataset is missing or damaged.
        EngineError: The engine does not load, or fails.
        StorageError: A prediction file cannot be written.
    """
    from clipfleet.reader import Dataset
    from clipfleet.retrieval.evaluation.evaluate import evaluate
    from clipfleet.retrieval.evaluation.gold import read_gold
    from clipfleet.retrieval.threads import threads_of
    from clipfleet.storage.filesystem.locations import local_path

    settings = settings or load_settings()
    is_file = str(texts).lower().endswith((".jsonl", ".ndjson"))
    if is_file != (model is not None):
        raise UsageError(
            f"texts is {str(texts)!r}, and model is {model and str(model)!r}: a file of texts "
            "needs the model that embeds them, and a dataset needs none"
        )
    if gold is None and not is_file:
        raise UsageError("gold is missing: name the JSONL file of the gold pairs, test_texts.jsonl")
    pairs = read_gold(gold or texts)
    with threads_of(settings), ExitStack() as opened:
        return evaluate(
            Dataset(images, settings=settings),
            _embedded(texts, opened.enter_context(_text_model(model, settings)))
            if model
            else Dataset(texts, settings=settings),
            pairs,
            predictions=Path(local_path(str(predictions))) if predictions else None,
            show=on_progress,
        )


def compare(
    a: str | Path,
    b: str | Path,
    *,
    gold: str | Path | None = None,
    against: Sequence[str | Path] = (),
    settings: Settings | None = None,
) -> Comparison:
    """Compare the vectors that two datasets have for the same ids: are they of the same space?

    The result has the distribution of the cosines, the overlap of the ten nearest neighbours,
    and the verdict `same_space`: whether rows of both may stand in one dataset or index. With
    `gold`, it also has the recall of both.

    Args:
        a: A dataset: its folder, or `s3://bucket/prefix`.
        b: Another dataset of the same items, made with another engine, decoder or model.
        gold: The JSONL file of the gold pairs, as in `evaluate`.
        against: With `gold`: the dataset of the other tower; or two, of which the first is searched
            with the vectors of `a`, and the second with those of `b`.
        settings: Without them, those of `load_settings()`.

    Raises:
        UsageError: The datasets are of two towers, or have no ids in common; or the arguments do
            not go together.
        DatasetError: A dataset is missing or damaged.
    """
    from dataclasses import replace

    from clipfleet.reader import Dataset
    from clipfleet.retrieval.evaluation.compare import compare, dataset_recalls
    from clipfleet.retrieval.evaluation.gold import read_gold
    from clipfleet.retrieval.threads import threads_of

    settings = settings or load_settings()
    if (gold is not None) != bool(against) or len(against) > 2:
        raise UsageError(
            f"gold is {gold and str(gold)!r}, and against has {len(against)} datasets: recall "
            "needs the gold file, and one dataset of the other tower, or one for each of a and b"
        )
    left, right = (Dataset(one, settings=settings) for one in (a, b))
    with threads_of(settings):
        if gold is None:
            return compare(left, right)
        pairs = read_gold(gold)
        others = [Dataset(one, settings=settings) for one in against]
        recalls = dataset_recalls(left, others[0], pairs), dataset_recalls(right, others[-1], pairs)
        return replace(compare(left, right), recall_a=recalls[0], recall_b=recalls[1])


def _text_model(model: str | Path, settings: Settings) -> Model:
    from clipfleet.model import load_model
    from clipfleet.workers.engines.model_folder import find_engine

    return load_model(find_engine(model, "txt", settings), settings=settings)


def _embedded(texts: str | Path, model: Model) -> EmbeddedTexts:
    """Return the texts of a file in the guide's form, which an engine in this process embeds."""
    from clipfleet.retrieval.evaluation.vector_set import EmbeddedTexts
    from clipfleet.storage.sources.normalisation import NormalisedTexts
    from clipfleet.storage.sources.open_source import open_source

    source = open_source(str(texts), tower="txt", id_column="text_id", text_column="text")
    return EmbeddedTexts(
        NormalisedTexts(source), path=str(texts), model=model.card, encode=model.encode_texts
    )
