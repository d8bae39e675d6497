"""The commands that ask: `clipfleet search` and `clipfleet similarity`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import clipfleet
from clipfleet.cli.options import (
    AllowUnverified,
    Contexts,
    Json,
    Model,
    ProviderName,
    TowerName,
    UrlHosts,
    engine_settings,
    settings_from,
)
from clipfleet.cli.output import DONE, ITEMS_FAILED, check_file_name, end_on_sigterm, print_result
from clipfleet.cli.source_options import with_source_options
from clipfleet.errors import UsageError
from clipfleet.storage.sources.options import SourceOptions

if TYPE_CHECKING:
    from clipfleet.architectures import Tower
    from clipfleet.retrieval.index.index import Index
    from clipfleet.retrieval.index.parameters import SearchParameters
    from clipfleet.retrieval.search.queries import Encode
    from clipfleet.retrieval.search.search import Searched
    from clipfleet.settings import Settings

_SHEET_QUERIES = 50  # of a file of queries; a sheet of 50 has some 20 MB of pictures at -k 20

IndexArgument = Annotated[
    str, typer.Argument(help="The index: a folder that `clipfleet index` made.")
]
_Provider = Annotated[ProviderName | None, typer.Option(help="ONNX Runtime's provider.")]


@with_source_options
def search(
    index: IndexArgument,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts.")] = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", help="An image to search by; repeatable.")
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            "--queries",
            metavar="FILE",
            help="Many queries: texts, paths of images or vectors in JSONL or Parquet, or a "
            "dataset; with --out.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits of each query.")] = 10,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="Model folder, or one engine, of the index's checkpoint; for vectors none.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write all answers to this .parquet file.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a contact sheet: one file with pictures.")
    ] = None,
    probes: Annotated[
        int | None, typer.Option(min=1, help="Lists to read [default: as certified].")
    ] = None,
    rerank: Annotated[
        int | None, typer.Option(min=1, help="Candidates of each hit [default: as certified].")
    ] = None,
    tower: Annotated[
        TowerName | None, typer.Option("--tower", help="What a file of queries holds, if unclear.")
    ] = None,
    provider: _Provider = None,
    contexts: Contexts = None,
    allow_unverified: AllowUnverified = False,
    url_host: UrlHosts = None,
    as_json: Json = False,
    *,
    source_options: SourceOptions,
) -> None:
    """Find the nearest items of an index for texts and images.

    Each text and each --image is a query of its own. A query that fails, such as an image that
    cannot be read, is an answer with the reason, and the exit code is 1.

    \b
    clipfleet search indexes/photos "一只猫" --image query.jpg -k 20 --model models/vit-b-16
    clipfleet search indexes/photos "雪山" --model models/vit-b-16 --html sheet.html
    clipfleet search indexes/photos --queries queries.jsonl --model models/vit-b-16 \\
        --out answers.parquet
    clipfleet search indexes/photos --queries vectors/queries --out answers.parquet
    """
    end_on_sigterm()
    if queries is not None and (texts or image):
        raise UsageError("--queries stands alone: write the texts and images into the file")
    if queries is None and source_options:
        raise UsageError(f"{', '.join(source_options)}: for a file of queries (--queries)")
    _check_outputs(queries, out, html)
    settings = settings_from(
        url_hosts=url_host or None, **engine_settings(provider, contexts, allow_unverified)
    )
    from clipfleet.retrieval.search.listing import search_json, search_lines
    from clipfleet.retrieval.search.open_queries import given_queries, open_queries
    from clipfleet.retrieval.search.search import batch_size
    from clipfleet.retrieval.search.search import search as search_index

    began = time.monotonic()
    with open_index(index, settings) as opened, ExitStack() as stack:
        settings = opened.card.query_settings(settings)
        engines = _Engines(stack, opened, model, settings, few=queries is None)
        if queries is None:
            batches = given_queries(texts or [], image or [], engines.encoder, dim=opened.dim)
            keep = len(texts or []) + len(image or [])
        else:
            batches = open_queries(
                queries,
                opened.card,
                engines.encoder,
                size=batch_size(k),
                has_model=model is not None,
                tower=tower.value if tower else None,
                options=source_options,
            )
            keep = _SHEET_QUERIES if html else 0
        found = search_index(
            opened, batches, k, parameters=_parameters(opened, probes, rerank), out=out, keep=keep
        )
        found.seconds = time.monotonic() - began
        if html:
            _write_sheet(html, opened, found, k, settings)
        files = {name: str(path) for name, path in (("out", out), ("html", html)) if path}
        shown = [] if queries else found.answers
        print_result(
            {**search_json(opened, found, shown, k=k), **files},
            [*search_lines(opened, found, shown), *(f"wrote {one}" for one in files.values())],
            as_json,
        )
    raise typer.Exit(ITEMS_FAILED if found.failed else DONE)


def similarity(
    model: Model,
    image: Annotated[list[Path], typer.Option("--image", help="An image; repeatable.")],
    text: Annotated[list[str], typer.Option("--text", help="A text; repeatable.")],
    provider: _Provider = None,
    contexts: Contexts = None,
    allow_unverified: AllowUnverified = False,
    as_json: Json = False,
) -> None:
    """Tell how well texts fit to an image.

    The probabilities of an image have the sum 1: they are the softmax of exp(logit_scale) x cosine
    over the texts.

    \b
    clipfleet similarity --model models/vit-b-16 --image cat.jpg --text "一只猫" --text "一只狗"
    """
    end_on_sigterm()
    settings = settings_from(**engine_settings(provider, contexts, allow_unverified))
    with clipfleet.load_model(model, settings=settings) as loaded:
        images, texts = loaded.encode_images(image), loaded.encode_texts(text)
        probabilities, cosines = loaded.similarity(images, texts), images @ texts.T
    from clipfleet.retrieval.pages.visible import visible

    lines, results = [], []
    for path, of_texts, of_cosines in zip(image, probabilities, cosines, strict=True):
        lines += [visible(str(path)), "  probability  cosine  text"]
        fits = []
        for one, probability, cosine in zip(text, of_texts, of_cosines, strict=True):
            lines.append(f"  {probability:11.4f}  {cosine:6.3f}  {visible(one)}")
            fits.append({"text": one, "probability": float(probability), "cosine": float(cosine)})
        results.append({"image": str(path), "texts": fits})
    print_result({"images": results}, lines, as_json)


class _Engines:
    """Opens the engines that queries need; of a folder, for a `few` those of small batches."""

    def __init__(
        self, stack: ExitStack, index: Index, model: Path | None, settings: Settings, *, few: bool
    ) -> None:
        self._stack = stack
        self._index = index
        self._model = model
        self._settings = settings
        self._few = few

    def encoder(self, tower: Tower) -> Encode:
        """Return what encodes the items of a tower.

        Raises:
            UsageError: There is no model, or it is not of the index's checkpoint.
            EngineError: The engine does not load.
        """
        from clipfleet.model_card import load_card
        from clipfleet.retrieval.index.card import check_queries
        from clipfleet.workers.embedder import Embedder
        from clipfleet.workers.engines.model_folder import find_engine

        if self._model is None:
            raise UsageError(
                "texts and images need --model: a model folder of the checkpoint that made the "
                f"index ({self._index.card.model.architecture})"
            )
        path = find_engine(self._model, tower, self._settings, single=self._few)
        card, _ = load_card(path)
        if card.tower != tower:
            raise UsageError(
                f"{self._model} is the {card.tower} tower, and these queries need the {tower} "
                "tower: name the model folder, or that tower's engine"
            )
        check_queries(self._index.card, card)
        changes: dict[str, Any] = {"model": str(path), "tower": tower}
        if self._few:
            changes["decoders"] = 1  # a process more takes longer to start than to decode an image
        embedder = Embedder.from_settings(self._settings.model_copy(update=changes))
        return self._stack.enter_context(embedder).embed


@contextmanager
def open_index(path: str, settings: Settings) -> Iterator[Index]:
    """Open an index for searches with the threads of the settings.

    Raises:
        UsageError: There is no index, or a dataset, or it is in an object store.
    """
    from clipfleet.retrieval.faiss_library import load_faiss
    from clipfleet.retrieval.index.folder import index_folder
    from clipfleet.retrieval.search.ready_vectors import is_dataset
    from clipfleet.retrieval.threads import threads_of

    if is_dataset(str(index_folder(path))):
        raise UsageError(
            f"{path} is a dataset, and a search needs an index of it: `clipfleet index {path} OUT` "
            "makes one"
        )
    load_faiss()  # before its threads are limited
    with threads_of(settings), clipfleet.Index.open(path) as opened:
        yield opened


def _check_outputs(queries: str | None, out: Path | None, html: Path | None) -> None:
    if queries is not None and out is None and html is None:
        raise UsageError("--queries may be many: name a file for the answers, --out FILE.parquet")
    for name, path, suffix in (("--out", out, ".parquet"), ("--html", html, ".html")):
        if path is None:
            continue
        check_file_name(name, path, suffix)
        if queries is not None and path.resolve() == Path(queries).resolve():
            raise UsageError(f"{name} {path} would replace the queries: choose another file")


def _parameters(index: Index, probes: int | None, rerank: int | None) -> SearchParameters | None:
    given = {"probes": probes, "rerank": rerank}
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(index.card.parameters, **changes) if changes else None


def _write_sheet(path: Path, index: Index, found: Searched, k: int, settings: Settings) -> None:
    from clipfleet.retrieval.search.contact_sheet import Heading, write_contact_sheet
    from clipfleet.workers.images.decode import ImageLimits
    from clipfleet.workers.picture_files import PictureFiles

    files = PictureFiles(ImageLimits.from_settings(settings))  # which refuse URLs
    heading = Heading.of(index, k=k, queries=found.queries)
    write_contact_sheet(path, heading, found.answers, files.small)
