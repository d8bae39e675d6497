"""The inputs of a job: a source, and the model card of the engine that embeds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError, UsageError
from clipfleet.model_card import load_card
from clipfleet.storage.format.dataset import TextNormalisation
from clipfleet.storage.sources.base import Source, items_source, open_source
from clipfleet.storage.sources.normalisation import NormalisedTexts
from clipfleet.storage.sources.skipped import NO_RULES, FolderRules
from clipfleet.storage.sources.tower import tower_of, tower_of_items

Items = str | Path | Iterable[Mapping[str, str]]


def open_inputs(  # noqa: PLR0913 - those of `clipfleet.embed`
    source: Items,
    model: str | Path,
    *,
    find: Callable[[Path, Tower], Path],
    tower: Tower | None,
    id_column: str | None,
    uri_column: str | None,
    text_column: str | None,
    quoting: str | None = None,
    encoding: str | None = None,
    text_normalisation: TextNormalisation = "none",
    rules: FolderRules = NO_RULES,
) -> tuple[Source, Path]:
    """Return the source, and the model card: of a model folder, the one that `find` returns.

    Without `tower`, the source's items decide which tower of a folder it is. The source yields
    texts with the `text_normalisation`, and the files of a folder that the `rules` choose.

    Raises:
        UsageError: The source or the model is not fit for use, or is of another tower.
    """
    form = {
        "id_column": id_column,
        "uri_column": uri_column,
        "text_column": text_column,
        "quoting": quoting,
        "encoding": encoding,
    }
    in_memory = not isinstance(source, str | Path)
    items = [] if isinstance(source, str | Path) else list(source)
    if in_memory and any(form.values()):
        raise UsageError(
            "columns, quoting and encoding are of tables: items in memory have id, uri and text"
        )
    if in_memory and rules != NO_RULES:
        raise UsageError("include, exclude and fail_on_skipped are for a folder of images")
    card = Path(model)
    if card.is_dir():
        found = tower or (
            tower_of_items(items) if in_memory else tower_of(str(source), rules, **form)
        )
        card = find(card, found)
    found = load_card(card)[0].tower
    if tower not in (None, found):
        raise UsageError(
            f"--tower is {tower}, and {card} is the {found} tower: leave --tower out, or name the "
            "other tower's engine"
        )
    opened = (
        items_source(items, found)
        if in_memory
        else open_source(str(source), rules, tower=found, **form)
    )
    # Refused before there is a dataset, which would be of this model at the next try too.
    if next(iter(opened), None) is None:
        raise SourceError(f"{opened.description} holds no item: it is empty")
    if text_normalisation == "none":
        return opened, card
    if found != "txt":
        raise UsageError(
            f"text_normalisation is {text_normalisation!r}, and {card} is an engine of images: "
            "leave it out"
        )
    return NormalisedTexts(opened), card
