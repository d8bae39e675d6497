"""Text normalisation: the change that Chinese-CLIP's evaluation makes to every text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from clipfleet.items import Item, TextNormalisation
from clipfleet.storage.sources.base import DerivedSource, Source


class NormalisedTexts(DerivedSource):
    """The texts of a source in lower case, with plain quotation marks in place of “ and ”.

    The original: `_preprocess_text` of cn_clip/eval/data.py. `tokenize` does not call it.
    """

    def __iter__(self) -> Iterator[Item]:
        for item in self.source:
            yield replace(item, text=normalise_text(item.text or ""))


def normalise_text(text: str) -> str:
    """Return a text as Chinese-CLIP's evaluation embeds it."""
    return text.lower().replace("“", '"').replace("”", '"')


def text_normalisation_of(source: Source) -> TextNormalisation:
    """Return the text normalisation of a source's items."""
    return "evaluation" if isinstance(source, NormalisedTexts) else "none"
