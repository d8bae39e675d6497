"""The commands that build an index and show it: `clipfleet index` and `clipfleet serve`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

import clipfleet
from clipfleet.cli.options import (
    AllowUnverified,
    Contexts,
    DatasetArgument,
    Json,
    ProviderName,
    RedisUrl,
    UrlHosts,
    engine_settings,
    settings_from,
)
from clipfleet.cli.output import end_on_sigterm, print_result
from clipfleet.cli.retrieval.search_commands import IndexArgument, open_index
from clipfleet.errors import DependencyError

_LINE_INTERVAL_S = 5.0


class KindName(str, Enum):
    """The values of `--kind`."""

    exact = "exact"
    ivf_rabitq = "ivf-rabitq"


def index(
    dataset: DatasetArgument,
    out: Annotated[str, typer.Argument(help="The folder of the index, new or begun.")],
    append: Annotated[
        bool,
        typer.Option(
            "--append", help="Add what the dataset gained to an index, and remove what it lost."
        ),
    ] = False,
    queue: Annotated[
        bool,
        typer.Option("--queue", help="Let the workers of the dataset's tower build the shards."),
    ] = False,
    redis_url: RedisUrl = None,
    max_memory: Annotated[
        float,
        typer.Option(min=0.5, metavar="GIB", help="Memory for building and searching, in GiB."),
    ] = 4.0,
    kind: Annotated[
        KindName | None,
        typer.Option(
            help="Compare all vectors, or those that codes choose "
            "[default: exact up to 200,000 vectors].",
            show_default=False,
        ),
    ] = None,
    lists: Annotated[
        int | None, typer.Option(min=1, help="Lists of codes [default: 1, 2, 4 or 8 √n, measured].")
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(min=1, max=4, help="Bits a dimension [default: 1, 2 or 4, measured]."),
    ] = None,
    min_recall: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Recall@10 to reach, by its lower 95 % bound; chooses probes."
        ),
    ] = 0.95,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(min=0.0, help="The longest p95 of a search on one thread, in milliseconds."),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET",
            help="Queries of the other tower [default: the largest dataset beside DATASET].",
            show_default=False,
        ),
    ] = None,
    shard_rows: Annotated[
        int, typer.Option(min=1, help="Vectors of a shard, rounded up to whole parts.")
    ] = 131_072,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the vectors that train lists.")] = 0,
    as_json: Json = False,
) -> None:
    """Build the index of a dataset, or bring it up to date.

    The same command goes on with a build that was killed. The index of a dataset that changed since
    is brought up to date with --append. With --queue, OUT is a folder that all workers share.

    \b
    clipfleet index vectors/photos indexes/photos
    clipfleet index vectors/photos indexes/photos --append
    clipfleet index /vectors/photos /vectors/indexes/photos --queue
    """
    end_on_sigterm()
    settings = settings_from(redis_url=redis_url)
    from clipfleet.retrieval.index.build import BuildShards, build_here

    build_shards: BuildShards = clipfleet.FleetBuild(settings=settings) if queue else build_here
    card = clipfleet.build_index(
        dataset,
        out,
        append=append,
        kind=kind.value if kind else None,
        lists=lists,
        bits=bits,
        seed=seed,
        max_memory_gib=max_memory,
        min_recall=min_recall,
        max_latency_ms=max_latency_ms,
        queries=queries,
        shard_rows=shard_rows,
        build_shards=build_shards,
        settings=settings,
        on_progress=None if as_json else _progress_lines(),
    )
    print_result(_fields(out, card), _lines(out, card), as_json)


def _progress_lines() -> Callable[[str, int, int], None]:
    """Return what shows a build on standard error: a line at each step, and every few seconds."""
    last_step, last_s = "", 0.0

    def show(step: str, done: int, whole: int) -> None:
        nonlocal last_step, last_s
        now_s = time.monotonic()
        if step != last_step or done == whole or now_s - last_s >= _LINE_INTERVAL_S:
            last_step, last_s = step, now_s
            typer.echo(f"{step}: {done:,} of {whole:,} vectors", err=True)

    return show


def serve(
    index: IndexArgument,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="Model folder, or one engine, of the index's checkpoint; "
            "without it, the page searches by hits only.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", help="Listen on this address; beyond loopback, a token is needed."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Listen on this port; 0: a free one.")
    ] = 8765,
    provider: Annotated[ProviderName | None, typer.Option(help="ONNX Runtime's provider.")] = None,
    contexts: Contexts = None,
    allow_unverified: AllowUnverified = False,
    url_host: UrlHosts = None,
) -> None:
    """Try an index on a local page: texts, pictures, hits.

    The command prints the URL of the page, and runs until Ctrl-C or SIGTERM. On another address
    than loopback, the URL has a token, and nothing is answered without it.

    \b
    clipfleet serve indexes/photos --model models/vit-b-16
    clipfleet serve indexes/photos --model models/vit-b-16 --host 0.0.0.0
    """
    end_on_sigterm()
    try:
        from clipfleet.retrieval.serve.run import serve_index
    except ImportError as error:
        raise DependencyError(
            f"the page needs Starlette and uvicorn, which cannot be loaded ({error}): from a "
            "checkout, pip install '.[serve]'"
        ) from error
    from clipfleet.retrieval.threads import thread_count
    from clipfleet.workers.picture_files import PictureFiles
    from clipfleet.workers.uploads import UploadDecoder

    settings = settings_from(
        url_hosts=url_host or None, **engine_settings(provider, contexts, allow_unverified)
    )
    with open_index(index, settings) as opened, ExitStack() as stack:
        settings = opened.card.query_settings(settings)
        loaded = None
        if model is not None:
            loaded = stack.enter_context(clipfleet.load_model(model, settings=settings))
        pictures = PictureFiles.from_settings(settings)
        uploads = UploadDecoder(settings, lambda: loaded.image_side if loaded else 0)
        decode = stack.enter_context(uploads).decoded
        with suppress(KeyboardInterrupt):  # a signal is the usual end
            serve_index(
                opened,
                loaded,
                pictures,
                decode,
                threads=thread_count(settings),
                host=host,
                port=port,
                show_url=typer.echo,
            )


def _fields(out: str, card: clipfleet.IndexCard) -> dict[str, Any]:
    structure = card.structure
    return {
        "index": out,
        "dataset": card.dataset,
        "model": card.model.identity,
        "kind": card.kind,
        "vectors": card.alive_rows,
        "removed": card.rows - card.alive_rows,
        "shards": len(card.shards),
        "lists": structure.lists,
        "bits": structure.bits,
        "probes": card.parameters.probes,
        "rerank": card.parameters.rerank,
        "seconds": card.seconds,
        "pilot": asdict(card.pilot) if card.pilot else None,
        "certificate": card.certificate,
    }


def _lines(out: str, card: clipfleet.IndexCard) -> list[str]:
    from clipfleet.retrieval.certificate.certified import certificate_of
    from clipfleet.retrieval.index.folder import REPORT_NAME

    certificate = certificate_of(card)
    structure, removed = card.structure, card.rows - card.alive_rows
    how = "every vector is compared"
    if card.kind != "exact":
        how = (
            f"{structure.lists:,} lists of codes with {structure.bits} bits a dimension, of which "
            f"a search reads {card.parameters.probes}"
        )
    gone = f", {removed:,} removed" if removed else ""
    return [
        f"index {out}: {card.alive_rows:,} vectors{gone}, {card.kind}: {how}",
        *([card.pilot.line()] if card.pilot else []),
        *(certificate.lines() if certificate else []),
        f"report: {Path(out, REPORT_NAME)}",
    ]
