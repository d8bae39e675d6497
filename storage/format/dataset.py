"""The dataset: a folder with the vectors of one tower of one model card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, get_args

from clipfleet.architectures import Tower
from clipfleet.errors import DatasetError, DatasetMismatchError
from clipfleet.model_card import ModelCard, parse_card
from clipfleet.storage.filesystem.base import STORE_TIMEOUT_S, Filesystem, open_filesystem
from clipfleet.storage.filesystem.create_if_absent import check_first_writer_wins
from clipfleet.storage.filesystem.local import TEMPORARY_FOLDER
from clipfleet.storage.filesystem.locations import absolute, in_object_store

EmbeddingDtype = Literal["float16", "float32"]
Kind = Literal["planned", "stream"]  # of jobs over sources; of single items

FORMAT = 1
INFO_PATH = "dataset.json"
PLAN_FOLDER = "plan"
PARTS_FOLDER = "parts"
ERRORS_FOLDER = "errors"
MANIFEST_FOLDER = "manifest"
FOLDERS = (PLAN_FOLDER, PARTS_FOLDER, ERRORS_FOLDER, MANIFEST_FOLDER, TEMPORARY_FOLDER)

_IDENTITY_DIGITS = 12  # of a model's identity, in messages
_NOT_THE_USERS = {TEMPORARY_FOLDER, "lost+found"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """What a dataset holds: `dataset.json`. `dim` is the width D of its vectors.

    `kind` is None in a dataset of an earlier version, see `clipfleet.storage.commit.kinds`.
    """

    tower: Tower
    model: str  # ModelCard.identity
    card: ModelCard
    dim: int
    embedding_dtype: EmbeddingDtype
    created_at: str  # ISO 8601, UTC
    kind: Kind | None

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
            "card": json.loads(self.card.to_json()),
        }
        return json.dumps(fields, indent=2) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A handle on a dataset: `root` is absolute or a URL, paths in `fs` are relative to it."""

    root: str
    fs: Filesystem
    info: DatasetInfo

    @classmethod
    def create(
        cls,
        root: str,
        card: ModelCard,
        *,
        kind: Kind,
        embedding_dtype: EmbeddingDtype,
        store_timeout_s: float = STORE_TIMEOUT_S,
    ) -> Dataset:
        """Make a dataset of a kind for a model's vectors, or open it where it exists.

        The kind of one that exists is left to `clipfleet.storage.commit.kinds.check_kind`.

        `store_timeout_s` is `open_filesystem`'s.

        Raises:
            DatasetMismatchError: It exists, for another model or embedding dtype.
            DatasetError: The folder holds other files, or a damaged `dataset.json`.
            UsageError: It would be in an object store that lets two writers create one object.
        """
        root = absolute(root)
        fs = open_filesystem(root, store_timeout_s=store_timeout_s)
        if not fs.exists(INFO_PATH):
            _refuse_foreign_files(root, fs)
            if in_object_store(root):
                check_first_writer_wins(fs, root)
            fs.create(INFO_PATH, _new_info(card, kind, embedding_dtype).to_json().encode())
        # Read back in every case: another process may have been first.
        dataset = cls(root=root, fs=fs, info=read_info(root, fs))
        dataset.check_model(card)
        if dataset.info.embedding_dtype != embedding_dtype:
            raise DatasetMismatchError(
                f"dataset {root} holds {dataset.info.embedding_dtype} vectors, not "
                f"{embedding_dtype}: set CLIPFLEET_EMBEDDING_DTYPE={dataset.info.embedding_dtype}, "
                "or choose another output folder"
            )
        return dataset

    @classmethod
    def open(cls, root: str, *, store_timeout_s: float = STORE_TIMEOUT_S) -> Dataset:
        """Open a dataset that exists; `store_timeout_s` is `open_filesystem`'s.

        Raises:
            DatasetError: There is none at `root`, or its `dataset.json` is damaged.
        """
        root = absolute(root)
        fs = open_filesystem(root, store_timeout_s=store_timeout_s)
        return cls(root=root, fs=fs, info=read_info(root, fs))

    def check_model(self, card: ModelCard) -> None:
        """Refuse another model than the dataset's.

        Raises:
            DatasetMismatchError: `card` is of another model, tower, precision or input size.
        """
        if card.identity != self.info.model:
            raise DatasetMismatchError(
                f"dataset {self.root} holds vectors of {describe(self.info.card)}, not of "
                f"{describe(card)}: choose another output folder, or give the card of the "
                "dataset's own model"
            )


def describe(card: ModelCard) -> str:
    """Return a model's name for messages: architecture, tower, precision, checkpoint, identity."""
    return (
        f"{card.architecture} {card.tower} {card.precision} "
        f"(checkpoint {card.checkpoint_sha256[:_IDENTITY_DIGITS]}, "
        f"model {card.identity[:_IDENTITY_DIGITS]})"
    )


def single_items_name(tower: Tower) -> str:
    """Return the dataset, in a worker's output folder, of single items that name none."""
    return f"items-{tower}"


def utc_now() -> str:
    """Return the time, ISO 8601 in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def read_info(root: str, fs: Filesystem) -> DatasetInfo:
    """Return what `dataset.json` says.

    Raises:
        DatasetError: It is missing, damaged, or of a newer format.
    """
    try:
        text = fs.read(INFO_PATH)
    except FileNotFoundError:
        raise DatasetError(
            f"no dataset at {root}: it has no {INFO_PATH}; `clipfleet submit` or "
            "`clipfleet embed` makes one"
        ) from None
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


def _parse_info(fields: dict[str, Any], *, origin: str) -> DatasetInfo:
    card = parse_card(json.dumps(fields["card"]), origin=origin)
    dtype = fields["embedding_dtype"]
    if dtype not in get_args(EmbeddingDtype):
        raise ValueError(f"embedding_dtype {dtype!r}")
    kind = fields.get("kind")
    if kind not in (None, *get_args(Kind)):
        raise ValueError(f"kind {kind!r}")
    info = DatasetInfo(
        tower=card.tower,
        model=card.identity,
        card=card,
        dim=card.dim,
        embedding_dtype=dtype,
        created_at=str(fields["created_at"]),
        kind=kind,
    )
    for name in ("tower", "model", "dim"):
        if fields[name] != getattr(info, name):
            raise ValueError(f"{name} {fields[name]!r} is not its card's {getattr(info, name)!r}")
    return info


def _new_info(card: ModelCard, kind: Kind, embedding_dtype: EmbeddingDtype) -> DatasetInfo:
    return DatasetInfo(
        tower=card.tower,
        model=card.identity,
        card=card,
        dim=card.dim,
        embedding_dtype=embedding_dtype,
        created_at=utc_now(),
        kind=kind,
    )


def _refuse_foreign_files(root: str, fs: Filesystem) -> None:
    foreign = [n for n in fs.list("") if not n.startswith(".") and n not in _NOT_THE_USERS]
    if foreign and not fs.exists(INFO_PATH):  # another process may just have made it
        raise DatasetError(
            f"{root} is not empty and is no dataset (it holds {foreign[0]!r} and "
            f"{len(foreign) - 1} more): choose an empty or new folder"
        )
