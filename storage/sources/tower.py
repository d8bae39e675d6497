"""The tower of a source: whether it holds images or texts, by its first item."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clipfleet.architectures import TOWERS, Tower
from clipfleet.errors import MissingColumnError, SourceError
from clipfleet.images import IMAGE_EXTENSIONS
from clipfleet.items import Item
from clipfleet.storage.filesystem.locations import has_scheme
from clipfleet.storage.filesystem.remote import input_location, is_remote, parent
from clipfleet.storage.skipped import extension_of
from clipfleet.storage.sources.open_source import form_of, open_source
from clipfleet.storage.sources.options import SourceOptions
from clipfleet.storage.stores.files import listed_once

if TYPE_CHECKING:
    from typing_extensions import Unpack


@listed_once()
def tower_of(location: str, **options: Unpack[SourceOptions]) -> Tower:
    """Return the tower whose items the source at a path holds.

    A text file holds texts, unless its first line is a URL, the path of a file, or ends as the name
    of an image: then it may be a list of images.

    Raises:
        SourceError: The source holds neither, or may hold both, or cannot be read.
    """
    first: dict[Tower, Item | None] = {}
    errors: list[SourceError] = []
    for tower in TOWERS:
        try:
            first[tower] = _first_item(location, tower, options)
        except SourceError as error:  # noqa: PERF203 - two towers
            errors.append(error)
    if not first:
        # Another fault was found in a table that has the columns of its tower: it says more.
        other = [error for error in errors if not isinstance(error, MissingColumnError)]
        raise SourceError("; ".join(dict.fromkeys(map(str, other or errors))))
    if len(first) == 1:
        return next(iter(first))
    text = first["txt"].text if first["txt"] else None
    if form_of(location) == ".txt" and text and not _may_name_an_image(location, text):
        return "txt"
    raise SourceError(
        f"{location} may hold images or texts: say which with --tower img or --tower txt, or "
        "for a table with both, --tower both"
    )


def _first_item(location: str, tower: Tower, options: SourceOptions) -> Item | None:
    return next(iter(open_source(location, tower=tower, **options)), None)


def _may_name_an_image(location: str, line: str) -> bool:
    folder = parent(input_location(location))
    if has_scheme(line) or extension_of(line) in IMAGE_EXTENSIONS:
        return True
    return not is_remote(folder) and os.path.isfile(os.path.join(folder, line))


def tower_of_items(items: Sequence[Mapping[str, str]]) -> Tower:
    """Return the tower of items in memory, by the first one.

    Raises:
        SourceError: There is no item, or the first one has neither uri nor text, or both.
    """
    first = items[0] if items else {}
    if ("uri" in first) != ("text" in first):
        return "img" if "uri" in first else "txt"
    raise SourceError(
        f"the first item ({dict(first)!r:.200}) does not say whether these are images or texts: "
        "expected a uri or a text; or name the tower"
    )
