"""The card of an index, `index.json`: its dataset and model, its shards, its files."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from clipfleet.errors import DatasetError, DatasetMismatchError, UsageError
from clipfleet.images import ORIGINAL_RULES, PictureRules
from clipfleet.model_card import ModelCard
from clipfleet.retrieval.index.parameters import IndexKind, Pilot, SearchParameters, Structure
from clipfleet.settings import Settings
from clipfleet.storage.format.dataset import describe
from clipfleet.validation import problems

CARD_NAME = "index.json"
CANDIDATE_NAME = "candidate.json"  # a card that is not certified yet

FAISS_FILE = r"^(codes|trained)-[0-9]{5,}\.faiss$"  # a name, which leads out of no folder

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class IndexedPart:
    """A part of the dataset, as it was when its vectors were copied; `sha256` is of its file."""

    name: str
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class IndexShard:
    """Parts whose vectors lie in one folder of the index, in this order."""

    name: str = Field(pattern=r"^[0-9]{5,}$")  # of a folder
    parts: tuple[IndexedPart, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class IndexCard:
    """The description of an index.

    `rules` are the picture rules of the dataset. A row is the number of a vector, in the order of
    shards and parts; it never changes. `removed`
    are ranges of rows (start, end) whose part vanished from the dataset, or changed. `codes` and
    `trained` name files, None for an exact index. `seconds` is the time that all shards took
    together, with pilot, training and merging. `pilot` is what chose the structure, None if nothing
    was left to choose. `certificate` is JSON, None if nothing was measured.
    """

    dataset: str  # path or URL
    model: ModelCard
    rules: PictureRules = ORIGINAL_RULES
    structure: Structure
    shards: tuple[IndexShard, ...]
    removed: tuple[tuple[int, int], ...] = ()
    codes: str | None = Field(default=None, pattern=FAISS_FILE)
    trained: str | None = Field(default=None, pattern=FAISS_FILE)
    parameters: SearchParameters
    seconds: float
    created_at: str  # ISO 8601, UTC
    pilot: Pilot | None = None
    certificate: dict[str, Any] | None = None
    format: Literal[1] = 1

    @property
    def kind(self) -> IndexKind:
        """`exact`, or `ivf-rabitq` for lists of codes."""
        return self.structure.kind

    @property
    def dim(self) -> int:
        """The width D of the vectors."""
        return self.model.dim

    @property
    def rows(self) -> int:
        """The number of rows, removed ones too."""
        return sum(shard.rows for shard in self.shards)

    @property
    def alive_rows(self) -> int:
        """The number of rows that a search may find."""
        return self.rows - sum(end - start for start, end in self.removed)

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each shard, and at the end the number of rows."""
        return np.array([0, *accumulate(shard.rows for shard in self.shards)], np.int64)

    def query_settings(self, settings: Settings) -> Settings:
        """Return the settings by which pictures of queries become pixels as those of the index did.

        An index of texts has no picture rules: those of the settings stay.
        """
        if self.model.tower == "txt":
            return settings
        return settings.model_copy(update=asdict(self.rules))

    def alive_parts(self) -> dict[str, IndexedPart]:
        """Return the parts whose rows a search may find, by name."""
        removed, row, found = {start for start, _ in self.removed}, 0, {}
        for shard in self.shards:
            for part in shard.parts:
                if row not in removed:
                    found[part.name] = part
                row += part.rows
        return found

    def to_json(self) -> str:
        """Return the text of the card."""
        return _CARD.dump_json(self, indent=1).decode() + "\n"


_CARD = TypeAdapter(IndexCard)


def read_card(folder: Path, name: str = CARD_NAME) -> IndexCard | None:
    """Return the card of an index; None if there is none.

    Raises:
        DatasetError: It is damaged, or of a newer format.
        UsageError: It cannot be read.
    """
    path = folder / name
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    try:
        # Python mode, as for a model card: its JSON has lists where it has tuples.
        return _CARD.validate_python(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is damaged, or of a newer clipfleet ({problems(error)}): build the index "
            "again, in another folder"
        ) from error


def check_queries(card: IndexCard, queries: ModelCard) -> None:
    """Refuse queries whose vectors cannot be compared with those of an index.

    The other tower of the same checkpoint is right, and so is another precision.

    Raises:
        DatasetMismatchError: Another checkpoint, architecture or width; or the same tower with
            another size of input.
    """
    check_comparable(f"the index of {card.dataset}", card.model, "the queries", queries)


def check_comparable(one: str, model: ModelCard, other: str, others: ModelCard) -> None:
    """Refuse vectors that cannot be compared: those of `one` model, and of another one.

    `one` and `other` say in the message whose vectors they are.

    Raises:
        DatasetMismatchError: As in `check_queries`.
    """
    wrong = [
        name
        for name, same in (
            ("checkpoint", others.checkpoint_sha256 == model.checkpoint_sha256),
            ("architecture", others.architecture == model.architecture),
            ("width", others.dim == model.dim),
            (
                "input size",
                others.tower != model.tower or others.input.shape[1:] == model.input.shape[1:],
            ),
        )
        if not same
    ]
    if wrong:
        raise DatasetMismatchError(
            f"{one} has vectors of {describe(model)}, and {other} are of {describe(others)}: they "
            f"differ in {' and '.join(wrong)}, so their cosines mean nothing; use one checkpoint "
            "for both"
        )
