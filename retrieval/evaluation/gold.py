"""Gold pairs: which images a text describes, as the guide's `{split}_texts.jsonl` says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from clipfleet.errors import DuplicateIdError, SourceError
from clipfleet.storage.tables.columns import as_id, show
from clipfleet.storage.tables.json_tables import json_rows

Answers = Mapping[str, frozenset[str]]  # of the query's id: the ids that are right


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldPairs:
    """The gold pairs of the file `origin`: the images of each text, and the texts of each image.

    A text without images is in `images_of` and is never found, as in the original's evaluation.
    """

    origin: str
    images_of: Answers
    texts_of: Answers


def read_gold(path: str | os.PathLike[str]) -> GoldPairs:
    """Return the gold pairs of a JSONL file: `{"text_id": …, "image_ids": […]}` a line.

    Raises:
        DuplicateIdError: A text has two lines.
        SourceError: The file cannot be read, a line has another form, or no text has an image.
    """
    origin = os.path.abspath(path)
    images_of: dict[str, frozenset[str]] = {}
    texts_of: dict[str, set[str]] = {}
    for location, row in json_rows(origin):
        missing = [name for name in ("text_id", "image_ids") if name not in row]
        if missing:
            raise SourceError(
                f"{location}: no field {missing[0]!r} among {show(sorted(row))}: expected "
                '{"text_id": …, "image_ids": […]}, as in test_texts.jsonl'
            )
        text, images = as_id(row["text_id"], location=location), row["image_ids"]
        if not isinstance(images, list):
            raise SourceError(f"{location}: image_ids is {show(images)}, expected a list of ids")
        if text in images_of:
            raise DuplicateIdError(
                f"{location}: text_id {show(text)} has a line above: put its images into one line"
            )
        images_of[text] = frozenset(as_id(image, location=location) for image in images)
        for image in images_of[text]:
            texts_of.setdefault(image, set()).add(text)
    if not texts_of:
        raise SourceError(
            f"{origin} has no gold pair: the image_ids of all {len(images_of):,} texts are empty, "
            "so no recall can be measured (the test split of a competition hides them)"
        )
    return GoldPairs(
        origin=origin,
        images_of=images_of,
        texts_of={image: frozenset(texts) for image, texts in texts_of.items()},
    )
