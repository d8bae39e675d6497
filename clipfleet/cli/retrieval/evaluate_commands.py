"""The commands that say how good vectors are: `clipfleet evaluate`, `compare` and `muge`."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import clipfleet
from clipfleet.cli.options import AllowUnverified, Gpus, Json, Model, settings_from
from clipfleet.cli.output import DONE, ITEMS_FAILED, end_on_sigterm, print_result
from clipfleet.errors import UsageError

if TYPE_CHECKING:
    from clipfleet.architectures import Tower
    from clipfleet.settings import Settings
    from clipfleet.tasks.muge.runtimes import Runtime

_INTERVAL_S = 5.0  # between two lines of progress

Gold = Annotated[
    Path | None,
    typer.Option(
        "--gold", help='JSONL file of the gold pairs: {"text_id": 1, "image_ids": [7]} a line.'
    ),
]


def evaluate(
    images: Annotated[str, typer.Option("--images", help="The dataset of the images.")],
    texts: Annotated[
        str,
        typer.Option(
            "--texts", help="The dataset of the texts; or test_texts.jsonl, with --model."
        ),
    ],
    gold: Gold = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="The images' model, which embeds a file of texts."),
    ] = None,
    predictions: Annotated[
        str | None,
        typer.Option(help="Folder for the ten best answers of every query, in the guide's format."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure recall, from texts to images and back.

    Recall at 1, 5 and 10, and their mean, in per cent, as Chinese-CLIP's evaluation has it. Every
    vector is compared. A query without a vector is a miss; if there are any, exits with 1.

    \b
    clipfleet evaluate --images vectors/images --texts vectors/texts --gold test_texts.jsonl
    clipfleet evaluate --images vectors/images --texts test_texts.jsonl --model models/vit-b-16
    """
    evaluation = clipfleet.evaluate(
        images,
        texts,
        gold=gold,
        model=model,
        predictions=predictions,
        settings=settings_from(),
        on_progress=None if as_json else _progress_lines(),
    )
    print_result(evaluation.to_json(), evaluation.lines(), as_json)
    raise typer.Exit(ITEMS_FAILED if evaluation.missing else DONE)


def compare(
    a: Annotated[str, typer.Argument(help="A dataset.")],
    b: Annotated[str, typer.Argument(help="Another dataset of the same items.")],
    gold: Gold = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="With --gold: the dataset of the other tower; twice if B needs its own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether two datasets of the same ids are of one space.

    Shows the cosines of the two vectors of each id, how many of the ten nearest neighbours they
    share, and with --gold the recall of both. Exits with 1 if the verdict is "different space":
    then rows of both must not stand in one dataset or index.

    \b
    clipfleet compare vectors/photos vectors/photos-fp16
    clipfleet compare vectors/old vectors/new --gold test_texts.jsonl \\
        --against vectors/old-texts --against vectors/new-texts
    """
    comparison = clipfleet.compare(a, b, gold=gold, against=against or (), settings=settings_from())
    print_result(comparison.to_json(), comparison.lines(), as_json)
    raise typer.Exit(DONE if comparison.same_space else ITEMS_FAILED)


def muge(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with SPLIT_texts.jsonl, and SPLIT_imgs.tsv or lmdb/SPLIT/imgs."
        ),
    ],
    model: Model,
    split: Annotated[str, typer.Option(help="Part of the data to evaluate.")] = "valid",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures, datasets and results [default: FOLDER/clipfleet-SPLIT].",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="Run only this one: pytorch, onnx-fp32, onnx-fp16, tensorrt-fp32 or "
            "tensorrt-fp16; repeatable [default: those that this machine runs]."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint for PyTorch [default: in the model folder, or downloaded by prepare]."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers.", show_default="1; with TensorRT, 1 for each GPU"),
    ] = None,
    gpus: Gpus = None,
    allow_unverified: AllowUnverified = False,
    as_json: Json = False,
) -> None:
    """Measure a model on MUGE in every runtime, side by side.

    Unpacks the pictures, embeds images and texts, and measures recall as the guide does. PyTorch is
    the reference: exits with 1 if another runtime differs by over 0.2 points, or if an item has no
    vector. A runtime that this machine lacks keeps its result of an earlier run in the same --out.
    The same command continues where the last one stopped.

    \b
    clipfleet muge datasets/MUGE --model models/vit-b-16
    clipfleet muge datasets/MUGE --model models/vit-b-16 --runtime tensorrt-fp16
    """
    from clipfleet.cli.progress_bar import open_display  # rich is slow to import
    from clipfleet.convert.tensorrt.requests import naming_file_errors
    from clipfleet.retrieval.muge.split import find_split
    from clipfleet.settings import cores
    from clipfleet.tasks.muge.run import run_muge
    from clipfleet.tasks.muge.runtimes import NAMES, PYTORCH, runtimes_of
    from clipfleet.workers.engines.model_location import locate_model

    end_on_sigterm()
    if unknown := set(runtime or ()) - NAMES.keys():
        raise UsageError(
            f"--runtime {', '.join(sorted(unknown))}: expected one of {', '.join(NAMES)}"
        )
    # float32, as the guide's features: rounding is not to hide what the runtimes differ in.
    settings = settings_from(embedding_dtype="float32", allow_unverified=allow_unverified or None)
    model = locate_model(model, settings)
    if not model.is_dir():
        raise UsageError(f"{model} is no folder: name the model folder of `clipfleet prepare`")
    source = find_split(folder, split)
    runtimes = list(runtimes_of(model, settings))
    checkpoint, reason = _find_checkpoint(runtimes[0], model, checkpoint)
    runtimes[0] = replace(runtimes[0], not_run=runtimes[0].not_run or reason)
    if runtime:
        left_out = "not in --runtime"
        runtimes = [r if r.key in runtime else replace(r, not_run=left_out) for r in runtimes]
    with open_display(quiet=as_json) as show, naming_file_errors():

        def embed(one: Runtime, tower: Tower, items: Path, dataset: Path) -> None:
            if one.key == PYTORCH and checkpoint:
                _embed_with_pytorch(checkpoint, one.cards[tower], items, dataset, settings)
                return
            clipfleet.embed(
                items,
                dataset,
                model=one.cards[tower],
                tower=tower,
                text_normalisation="evaluation" if tower == "txt" else "none",
                workers=workers,
                gpus=gpus,
                settings=settings,
                on_progress=show,
            )

        comparison = run_muge(
            source,
            out or folder / f"clipfleet-{split}",
            runtimes,
            embed=embed,
            threads=settings.engine_threads or cores(),
            progress=lambda line: None if as_json else typer.echo(line, err=True),
        )
    print_result(comparison.to_json(), comparison.lines(), as_json)
    raise typer.Exit(DONE if comparison.ok else ITEMS_FAILED)


def _find_checkpoint(pytorch: Runtime, model: Path, given: Path | None) -> tuple[Path | None, str]:
    """Return the checkpoint that PyTorch runs; without one, the reason why PyTorch is not run."""
    from clipfleet.convert.checkpoints.download import DEFAULT_DOWNLOAD_ROOT, kept_checkpoint
    from clipfleet.model_card import load_card

    if importlib.util.find_spec("torch") is None:
        return None, "PyTorch is not installed"
    if pytorch.not_run or given:
        return given, ""
    card, _ = load_card(pytorch.cards["img"])
    found = kept_checkpoint(card, model)
    if found is None:
        return None, (
            f"its checkpoint ({card.checkpoint_sha256[:12]}) is neither in {model} nor in "
            f"{DEFAULT_DOWNLOAD_ROOT}: give --checkpoint"
        )
    return found, ""


def _embed_with_pytorch(
    checkpoint: Path, card: Path, items: Path, dataset: Path, settings: Settings
) -> None:
    """Embed in this process: no worker runs PyTorch."""
    from clipfleet.convert.dependencies import naming_missing_packages

    with naming_missing_packages():
        from clipfleet.convert.checkpoints.torch_engine import open_torch_engine
    from clipfleet.model_card import load_card
    from clipfleet.storage.sources.normalisation import NormalisedTexts
    from clipfleet.storage.sources.open_source import open_source
    from clipfleet.tasks.local.here import embed_here
    from clipfleet.workers.embedder import Embedder

    engine = open_torch_engine(checkpoint, load_card(card)[0], threads=settings.engine_threads)
    with Embedder(engine, settings) as embedder:
        source = open_source(str(items), tower=engine.card.tower)
        if engine.card.tower == "txt":
            source = NormalisedTexts(source)
        embed_here(source, str(dataset), embedder)


def _progress_lines() -> Callable[[str, int, int], None]:
    """Return a function that shows progress on standard error, every few seconds."""
    last_s = time.monotonic()

    def show(what: str, done: int, whole: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _INTERVAL_S:
            last_s = time.monotonic()
            typer.echo(f"{what}: {done / whole:.0%}", err=True)

    return show
