"""The commands that say how good vectors are: `clipfleet evaluate` and `clipfleet compare`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import clipfleet
from clipfleet.cli.options import Json, settings_from
from clipfleet.cli.output import DONE, ITEMS_FAILED, print_result

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
        Path | None,
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


def _progress_lines() -> Callable[[str, int, int], None]:
    """Return a function that shows progress on standard error, every few seconds."""
    last_s = time.monotonic()

    def show(what: str, done: int, whole: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _INTERVAL_S:
            last_s = time.monotonic()
            typer.echo(f"{what}: {done / whole:.0%}", err=True)

    return show
