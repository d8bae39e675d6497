"""Queries are opened: those of a command line, of a file, or of a dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from clipfleet.architectures import Tower
from clipfleet.errors import UsageError
from clipfleet.retrieval.index.card import IndexCard, check_queries
from clipfleet.retrieval.search.queries import Encode, Queries, encoded_queries
from clipfleet.retrieval.search.ready_vectors import (
    has_vectors,
    is_dataset,
    model_of,
    ready_queries,
)
from clipfleet.storage.sources.base import items_source
from clipfleet.storage.sources.open_source import open_source
from clipfleet.storage.sources.options import SourceOptions, given
from clipfleet.storage.sources.tower import tower_of
from clipfleet.storage.tables.columns import absolute_uri

OpenEncoder = Callable[[Tower], Encode]  # loads the engine of a tower


def given_queries(
    texts: Sequence[str], images: Sequence[str], open_encoder: OpenEncoder, *, dim: int
) -> Iterator[Queries]:
    """Return the queries of a few texts and images: first the texts.

    Raises:
        UsageError: There is none, or one is not valid Unicode.
    """
    if not texts and not images:
        raise UsageError("nothing to search for: give a text, --image FILE, or --queries FILE")
    if "" in images:
        raise UsageError("--image: the path is empty")
    given: dict[Tower, list[dict[str, str]]] = {
        "txt": [{"id": str(n), "text": text} for n, text in enumerate(texts, 1)],
        "img": [{"id": uri, "uri": absolute_uri(uri, folder=os.getcwd())} for uri in images],
    }
    batches: list[Iterator[Queries]] = []
    for tower, items in given.items():
        if items:
            batch = encoded_queries(
                items_source(items, tower),
                open_encoder(tower),
                tower=tower,
                dim=dim,
                size=len(items),
                first=len(texts) if tower == "img" else 0,
            )
            batches.append(batch)
    return chain.from_iterable(batches)


def open_queries(
    location: str,
    card: IndexCard,
    open_encoder: OpenEncoder,
    *,
    size: int,
    has_model: bool,
    tower: Tower | None,
    options: SourceOptions,
) -> Iterator[Queries]:
    """Return the queries of a file or dataset, `size` at a time.

    A table with a column of vectors gives these, unless `tower` or a column says otherwise.

    Raises:
        SourceError: The file is missing or has another format.
        DatasetMismatchError: The vectors are of another model than the index's `card`.
        UsageError: A model is given for vectors.
    """
    asks_for_items = tower or given(options).keys() - {"id_column"}
    if is_dataset(location) or (not asks_for_items and has_vectors(location)):
        if has_model:
            raise UsageError(
                f"{location} has vectors already: leave --model out (--tower takes the texts or "
                "images of a table instead)"
            )
        model = model_of(location)
        if model is not None:
            check_queries(card, model)
        return ready_queries(location, dim=card.dim, size=size, id_column=options.get("id_column"))
    found = tower or tower_of(location, **options)
    source = open_source(location, tower=found, **options)
    return encoded_queries(source, open_encoder(found), tower=found, dim=card.dim, size=size)
