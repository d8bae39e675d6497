"""The commands that make other files of a dataset: `clipfleet dedupe`, `export` and `compact`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

import clipfleet
from clipfleet.cli.options import DatasetArgument, Json, settings_from
from clipfleet.cli.output import check_file_name, print_result

_MEGABYTE = 1 << 20


class TargetName(str, Enum):
    """The values of `--to`: those of `clipfleet.retrieval.export.export.Target`."""

    fvecs = "fvecs"
    jsonl = "jsonl"
    lance = "lance"
    npy = "npy"
    parquet = "parquet"
    pgvector = "pgvector"
    qdrant = "qdrant"


class SortName(str, Enum):
    """The values of `--sort`."""

    id = "id"


def dedupe(
    dataset: DatasetArgument,
    out: Annotated[str, typer.Argument(help="The new Parquet file.")],
    threshold: Annotated[
        float, typer.Option(help="Rows with this cosine or a larger one are near-duplicates.")
    ] = 0.97,
    near_cells: Annotated[
        int, typer.Option(min=0, max=64, help="Cells beside its own that a row is compared in.")
    ] = 3,
    sample: Annotated[
        int, typer.Option(min=1, help="Rows that are compared with all rows, as a check.")
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Chooses the cells and the sample.")] = 0,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Also write a page that shows groups."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find near-duplicates, and write which rows to keep.

    Larger pictures come first, then lower ids. A row is dropped if it is near a kept row before it;
    its representative is the nearest kept row. OUT has every id with a vector once, with the
    columns kept, representative, cosine and group_size.

    \b
    clipfleet dedupe vectors/photos unique.parquet
    clipfleet dedupe vectors/photos unique.parquet --threshold 0.99 --html groups.html
    """
    from clipfleet.retrieval.dedupe.groups_page import write_groups_page
    from clipfleet.workers.images.decode import ImageLimits
    from clipfleet.workers.picture_files import PictureFiles

    settings = settings_from()
    if html is not None:
        check_file_name("--html", html, ".html")
    found = clipfleet.dedupe(
        dataset,
        out,
        threshold=threshold,
        near_cells=near_cells,
        sample=sample,
        seed=seed,
        settings=settings,
    )
    if html is not None:
        files = PictureFiles(ImageLimits.from_settings(settings))  # which refuse URLs
        write_groups_page(html, Path(found.path), files.small)
    print_result(found.to_json(), found.lines(), as_json)


def export(
    dataset: DatasetArgument,
    out: Annotated[str, typer.Argument(help="The new file or folder.")],
    to: Annotated[TargetName, typer.Option("--to", help="The form of the vectors.")],
    int_ids: Annotated[
        bool, typer.Option("--int-ids", help="With jsonl: write the ids as whole numbers.")
    ] = False,
    sort: Annotated[
        SortName | None, typer.Option("--sort", help="With parquet: sort the rows.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write all vectors of a dataset for another program.

    It appears whole, after it was read back and counted: every id of the dataset once. jsonl is the
    form of Chinese-CLIP's features; pgvector is text for PostgreSQL's COPY; qdrant has a point a
    line; npy and fvecs are folders with ids.jsonl; lance needs the package lancedb.

    \b
    clipfleet export vectors/photos photos.jsonl --to jsonl
    clipfleet export vectors/photos photos-by-id --to parquet --sort id
    """
    done = clipfleet.export(
        dataset,
        out,
        to=to.value,
        int_ids=int_ids,
        sort_by_id=sort is not None,
        settings=settings_from(),
    )
    print_result(done.to_json(), done.lines(), as_json)


def compact(
    dataset: DatasetArgument,
    file_size: Annotated[
        int, typer.Option("--file-size", min=1, metavar="MB", help="Size of a pack, in MiB.")
    ] = 256,
    sort: Annotated[
        SortName | None,
        typer.Option("--sort", help="Parts in the order of their smallest ids; older packs too."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put the small parts of a dataset into few large files.

    Readers and workers may run meanwhile. Parts keep their bytes, so verify, retry, resume and
    submit work as before. The dataset must be on a disk, which needs room for a second copy of the
    small parts. A killed command is finished by the next one.

    With --sort id, a reader that looks for an id reads few row groups, unless the parts overlap in
    their ids, which the command counts. Rows stay in their parts. To sort them, export a copy: the
    last command.

    \b
    clipfleet compact vectors/photos
    clipfleet compact vectors/photos --sort id
    clipfleet export vectors/photos photos-by-id --to parquet --sort id
    """
    done = clipfleet.compact(
        dataset,
        file_bytes=file_size * _MEGABYTE,
        sort_by_id=sort is not None,
        settings=settings_from(),
    )
    print_result(done.to_json(), done.lines(), as_json)
