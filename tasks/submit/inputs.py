"""The inputs of a job: a source, and the model card of the engine that embeds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError, UsageError
from clipfleet.model_card import CARD_SUFFIX, load_card
from clipfleet.storage.sources.base import Source, items_source
from clipfleet.storage.sources.open_source import normalised, open_source
from clipfleet.storage.sources.options import SourceOptions, given
from clipfleet.storage.sources.tower import tower_of, tower_of_items
from clipfleet.storage.stores.files import listed_once

Items = str | Path | Iterable[Mapping[str, str]]

_HELD: dict[Tower, str] = {"img": "images", "txt": "texts"}


@listed_once()
def open_inputs(
    source: Items,
    model: str | Path,
    *,
    find: Callable[[Path, Tower], Path],
    tower: Tower | None,
    options: SourceOptions,
) -> tuple[Source, Path]:
    """Return the source, and the model card: of a model folder, the one that `find` returns.

    Without `tower`, the source's items decide which tower of a folder it is.

    Raises:
        UsageError: The source or the model is not fit for use, or is of another tower.
    """
    options = given(options)
    in_memory = not isinstance(source, str | Path)
    items = [] if isinstance(source, str | Path) else list(source)
    of_files = sorted(options.keys() - {"text_normalisation"})
    if in_memory and of_files:
        raise UsageError(
            f"{', '.join(of_files)}: for files and folders; items in memory have id, uri and text"
        )
    card = Path(model)
    if card.is_dir():
        found = tower or (tower_of_items(items) if in_memory else tower_of(str(source), **options))
        card = find(card, found)
    found = load_card(card)[0].tower
    if tower not in (None, found):
        raise UsageError(
            f"--tower is {tower}, and {card} is the {found} tower: leave --tower out, or name the "
            "other tower's engine"
        )
    # Refused before there is a dataset, which would be of this model at the next try too.
    try:
        opened = (
            normalised(items_source(items, found), found, options)
            if in_memory
            else open_source(str(source), tower=found, **options)
        )
        if next(iter(opened), None) is None:
            raise SourceError(f"{opened.description} holds no item: it is empty")
    except SourceError as error:
        if in_memory:
            raise
        named = tower is not None
        raise _refusal(error, str(source), card, found, options, named=named) from error
    return opened, card


def _refusal(
    error: SourceError,
    location: str,
    card: Path,
    tower: Tower,
    options: SourceOptions,
    *,
    named: bool,
) -> SourceError:
    """Return why a source is refused: its items are of the other tower, or else `error`."""
    try:
        held = tower_of(location, **options)
    except SourceError:
        return error
    if held == tower:
        return error
    other = card.with_name(card.name.replace(f".{tower}.", f".{held}."))
    engine = other.name.removesuffix(CARD_SUFFIX) if other.is_file() else f"the {held} engine"
    remedy = f"use --tower {held}" if named else f"name {engine}, or the model folder"
    return SourceError(
        f"{location} holds {_HELD[held]}, and {card.name.removesuffix(CARD_SUFFIX)} is the engine "
        f"of {_HELD[tower]}: {remedy} ({error})"
    )
