"""The contents of `dataset.json`: the model of a dataset's vectors, and how they were made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from clipfleet.architectures import TOWERS, Tower
from clipfleet.errors import DatasetError
from clipfleet.images import ORIGINAL_RULES, PictureRules
from clipfleet.items import TextNormalisation
from clipfleet.model_card import ModelCard, parse_card
from clipfleet.settings.engines import Decode
from clipfleet.storage.filesystem.base import Filesystem

EmbeddingDtype = Literal["float16", "float32"]
Kind = Literal["planned", "stream"]  # filled by jobs over sources; by single items
Column = Literal["size_bytes", "mtime_ns", "content_hash"]  # of parts; not every dataset has it

FORMAT = 1
INFO_PATH = "dataset.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """The contents of `dataset.json`. `dim` is the width D of the vectors.

    `kind` is None in a dataset of an earlier version, see `clipfleet.storage.commit.kinds`.
    `decode` says what decodes JPEG files, `rules` how unusual pictures become pixels (of texts:
    those of the original), `text_normalisation` how texts were changed. `columns` are those of the
    parts that not every dataset has.
    """

    tower: Tower
    model: str  # ModelCard.identity
    card: ModelCard
    dim: int
    embedding_dtype: EmbeddingDtype
    created_at: str  # ISO 8601, UTC
    kind: Kind | None
    decode: Decode = "exact"
    rules: PictureRules = ORIGINAL_RULES
    text_normalisation: TextNormalisation = "none"
    columns: tuple[Column, ...] = ()

    def to_json(self) -> str:
        """Return the text of `dataset.json`."""
        fields = {
            "format": FORMAT,
            "kind": self.kind,
            "tower": self.tower,
            "model": self.model,
            "dim": self.dim,
            "embedding_dtype": self.embedding_dtype,
            "created_at": self.created_at,
            **({"decode": self.decode} if self.decode != "exact" else {}),
            **self.rules.to_stored(),
            **({"text_normalisation": own} if (own := self.text_normalisation) != "none" else {}),
            **({"columns": list(self.columns)} if self.columns else {}),
            "card": json.loads(self.card.to_json()),
        }
        return json.dumps(fields, indent=2) + "\n"


def _way_out(fs: Filesystem) -> str:
    """Return what to do where there is no dataset."""
    inside = [tower for tower in TOWERS if fs.exists(f"{tower}/{INFO_PATH}")]
    if inside:
        return f"the datasets of both towers are below it: add /{' or /'.join(inside)} to its name"
    return "`clipfleet submit` or `clipfleet embed` makes one"


def read_info(root: str, fs: Filesystem) -> DatasetInfo:
    """Return the contents of `dataset.json`.

    Raises:
        DatasetError: It is missing or damaged, or has a newer format.
    """
    try:
        text = fs.read(INFO_PATH)
    except FileNotFoundError:
        raise DatasetError(f"no dataset at {root}: it has no {INFO_PATH}; {_way_out(fs)}") from None
    try:
        fields = json.loads(text)
        if fields["format"] != FORMAT:
            raise DatasetError(
                f"dataset {root} has format {fields['format']!r}; this clipfleet reads {FORMAT}: "
                "use the version that made it, or a newer one"
            )
        return _parse_info(fields, origin=f"{root}/{INFO_PATH}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{root}/{INFO_PATH} is damaged ({type(error).__name__}: {error}): restore it, or "
            "choose another output folder"
        ) from error


def _parse_info(stored: dict[str, Any], *, origin: str) -> DatasetInfo:
    card = parse_card(json.dumps(stored["card"]), origin=origin)
    dtype = stored["embedding_dtype"]
    if dtype not in get_args(EmbeddingDtype):
        raise ValueError(f"embedding_dtype {dtype!r}")
    kind = stored.get("kind")
    if kind not in (None, *get_args(Kind)):
        raise ValueError(f"kind {kind!r}")
    decode = stored.get("decode", "exact")
    if decode not in get_args(Decode):
        raise ValueError(f"decode {decode!r}")
    normalisation = stored.get("text_normalisation", "none")
    if normalisation not in get_args(TextNormalisation):
        raise ValueError(f"text_normalisation {normalisation!r}")
    columns = tuple(stored.get("columns", ()))
    if len(set(columns)) < len(columns) or not set(columns) <= set(get_args(Column)):
        raise ValueError(f"columns {columns!r}")
    info = DatasetInfo(
        tower=card.tower,
        model=card.identity,
        card=card,
        dim=card.dim,
        embedding_dtype=dtype,
        created_at=str(stored["created_at"]),
        kind=kind,
        decode=decode,
        rules=PictureRules.from_stored(stored),
        text_normalisation=normalisation,
        columns=columns,
    )
    for name in ("tower", "model", "dim"):
        if stored[name] != getattr(info, name):
            raise ValueError(f"{name} {stored[name]!r} is not its card's {getattr(info, name)!r}")
    return info
