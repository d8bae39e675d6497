"""A dataset: a folder with the vectors of one tower of one model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timezone

from clipfleet.architectures import Tower
from clipfleet.errors import DatasetError, DatasetMismatchError, UsageError
from clipfleet.images import DEFAULT_RULES, ORIGINAL_RULES, PictureRules
from clipfleet.items import TextNormalisation
from clipfleet.model_card import ModelCard
from clipfleet.settings.engines import Decode
from clipfleet.storage.filesystem.base import Filesystem, check_create_if_absent
from clipfleet.storage.filesystem.local import TEMPORARY_FOLDER, LocalFilesystem
from clipfleet.storage.filesystem.locations import absolute, in_object_store
from clipfleet.storage.filesystem.open_filesystem import STORE_TIMEOUT_S, open_filesystem
from clipfleet.storage.format.dataset_info import (
    INFO_PATH,
    Column,
    DatasetInfo,
    EmbeddingDtype,
    Kind,
    read_info,
)
from clipfleet.storage.packs.packed_parts import PackedParts

FILE_COLUMNS: tuple[Column, ...] = ("size_bytes", "mtime_ns")  # by which a refresh knows files

REPORT_PATH = "report.html"  # for people; no reader needs it
PLAN_FOLDER = "plan"
PARTS_FOLDER = "parts"
ERRORS_FOLDER = "errors"
MANIFEST_FOLDER = "manifest"
DAMAGED_FOLDER = "_damaged"  # the parts that `repair` moved away
FOLDERS = (PLAN_FOLDER, PARTS_FOLDER, ERRORS_FOLDER, MANIFEST_FOLDER, TEMPORARY_FOLDER)

_IDENTITY_DIGITS = 12  # of a model's identity, in messages
_SYSTEM_NAMES = {TEMPORARY_FOLDER, "lost+found"}  # allowed in the folder of a new dataset


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """An open dataset: `root` is an absolute path or a URL; paths in `fs` are relative to it."""

    root: str
    fs: Filesystem
    info: DatasetInfo

    @classmethod
    def create(  # noqa: PLR0913 - those of `dataset.json`
        cls,
        root: str,
        card: ModelCard,
        *,
        kind: Kind,
        embedding_dtype: EmbeddingDtype,
        decode: Decode = "exact",
        rules: PictureRules = DEFAULT_RULES,
        text_normalisation: TextNormalisation = "none",
        columns: tuple[Column, ...] = (),
        store_timeout_s: float = STORE_TIMEOUT_S,
    ) -> Dataset:
        """Create a dataset of a kind for a model's vectors, or open the dataset at `root`.

        `clipfleet.storage.commit.kinds.check_kind` checks the kind of an existing dataset.
        `columns` are those of a new dataset; of an existing one, only content hashes are asked for.
        `store_timeout_s` is as in `open_filesystem`.

        Raises:
            DatasetMismatchError: The dataset exists, for another model, embedding dtype, decoder,
                text normalisation or other picture rules, or without content hashes.
            DatasetError: The folder holds other files, or a damaged `dataset.json`.
            UsageError: The object store lets two writers create one object, or the GPU is to decode
                texts.
        """
        if decode != "exact" and card.tower != "img":
            raise UsageError(
                f"--decode {decode} is for images, and {card.engine} is an engine of texts: leave "
                "it out (CLIPFLEET_DECODE)"
            )
        if card.tower != "img":
            rules = ORIGINAL_RULES
        root = absolute(root)
        fs = _open_parts(root, store_timeout_s)
        if not fs.exists(INFO_PATH):
            _refuse_foreign_files(root, fs)
            if in_object_store(root):
                check_create_if_absent(fs, root)
            info = DatasetInfo(
                tower=card.tower,
                model=card.identity,
                card=card,
                dim=card.dim,
                embedding_dtype=embedding_dtype,
                created_at=utc_now(),
                kind=kind,
                decode=decode,
                rules=rules,
                text_normalisation=text_normalisation,
                columns=columns,
            )
            fs.create(INFO_PATH, info.to_json().encode())
        # Read it in every case: another process may have created it first.
        dataset = cls(root=root, fs=fs, info=read_info(root, fs))
        dataset.check_model(card)
        dataset.check_decode(decode)
        dataset.check_rules(rules)
        dataset.check_text_normalisation(text_normalisation)
        if "content_hash" in columns and "content_hash" not in dataset.info.columns:
            raise DatasetMismatchError(
                f"dataset {root} was made without content hashes, and a dataset has them for all "
                "vectors or for none: leave --content-hash out, or choose another output folder"
            )
        if dataset.info.embedding_dtype != embedding_dtype:
            raise DatasetMismatchError(
                f"dataset {root} holds {dataset.info.embedding_dtype} vectors, not "
                f"{embedding_dtype}: set CLIPFLEET_EMBEDDING_DTYPE={dataset.info.embedding_dtype}, "
                "or choose another output folder"
            )
        return dataset

    @classmethod
    def open(cls, root: str, *, store_timeout_s: float = STORE_TIMEOUT_S) -> Dataset:
        """Open an existing dataset; `store_timeout_s` is as in `open_filesystem`.

        Raises:
            DatasetError: There is no dataset at `root`, or its `dataset.json` is damaged.
        """
        root = absolute(root)
        fs = _open_parts(root, store_timeout_s)
        return cls(root=root, fs=fs, info=read_info(root, fs))

    def check_model(self, card: ModelCard) -> None:
        """Refuse a model other than the dataset's.

        Raises:
            DatasetMismatchError: `card` has another model, tower, precision or input size.
        """
        if card.identity != self.info.model:
            raise DatasetMismatchError(
                f"dataset {self.root} holds vectors of {describe(self.info.card)}, not of "
                f"{describe(card)}: choose another output folder, or give the card of the "
                "dataset's own model"
            )

    def check_decode(self, decode: Decode) -> None:
        """Refuse vectors of pictures that were decoded otherwise than the dataset's.

        Raises:
            DatasetMismatchError: The dataset's JPEG files have another decoder.
        """
        if decode != self.info.decode:
            raise DatasetMismatchError(
                f"dataset {self.root} holds vectors with decode {self.info.decode!r}, not "
                f"{decode!r}: use --decode {self.info.decode} "
                f"(CLIPFLEET_DECODE={self.info.decode}), or choose another output folder"
            )

    def check_rules(self, rules: PictureRules) -> None:
        """Refuse picture rules other than the dataset's.

        Raises:
            DatasetMismatchError: The dataset's pictures have another rule.
        """
        for field in fields(rules):
            own, other = getattr(self.info.rules, field.name), getattr(rules, field.name)
            if own != other:
                option = f"--{field.name.replace('_', '-')} {own}"
                raise DatasetMismatchError(
                    f"dataset {self.root} holds vectors with {field.name} {own!r}, not {other!r}: "
                    f"use {option} (CLIPFLEET_{field.name.upper()}={own}), or choose another "
                    "output folder"
                )

    def check_text_normalisation(self, normalisation: TextNormalisation) -> None:
        """Refuse texts that were changed otherwise than the dataset's.

        Raises:
            DatasetMismatchError: The dataset's texts have another normalisation.
        """
        own = self.info.text_normalisation
        if normalisation != own:
            raise DatasetMismatchError(
                f"dataset {self.root} holds texts with text normalisation {own!r}, not "
                f"{normalisation!r}: use --text-normalisation {own}, or choose another output "
                "folder"
            )


def describe(card: ModelCard) -> str:
    """Describe a model in messages: architecture, tower, precision, checkpoint, identity."""
    return (
        f"{card.architecture} {card.tower} {card.precision} "
        f"(checkpoint {card.checkpoint_sha256[:_IDENTITY_DIGITS]}, "
        f"model {card.identity[:_IDENTITY_DIGITS]})"
    )


def single_items_name(tower: Tower) -> str:
    """Return the name of the dataset for single items whose message names no dataset."""
    return f"items-{tower}"


def part_names(fs: Filesystem) -> set[str]:
    """Return the names of the shards that have a part."""
    return _names(fs, PARTS_FOLDER, ".parquet")


def error_names(fs: Filesystem) -> set[str]:
    """Return the names of the shards that have an errors table."""
    return _names(fs, ERRORS_FOLDER, ".parquet")


def record_names(fs: Filesystem) -> set[str]:
    """Return the names of the shards that have a manifest record."""
    return _names(fs, MANIFEST_FOLDER, ".json")


def _names(fs: Filesystem, folder: str, suffix: str) -> set[str]:
    return {n.removesuffix(suffix) for n in fs.list(folder) if n.endswith(suffix)}


def utc_now() -> str:
    """Return the current time in UTC: ISO 8601, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _open_parts(root: str, store_timeout_s: float) -> PackedParts:
    fs = open_filesystem(root, store_timeout_s=store_timeout_s)
    lock = fs.lock if isinstance(fs, LocalFilesystem) else None
    return PackedParts(fs, PARTS_FOLDER, lock=lock)


def _refuse_foreign_files(root: str, fs: Filesystem) -> None:
    names = [n for n in fs.list("") if not n.startswith(".") and n not in _SYSTEM_NAMES]
    # A source that was refused may have left empty folders, see storage/plan/withdraw.py.
    foreign = [n for n in names if n not in FOLDERS or fs.list(n)]
    if foreign and not fs.exists(INFO_PATH):  # another process may have created it just now
        raise DatasetError(
            f"{root} is not empty and is no dataset (it holds {foreign[0]!r} and "
            f"{len(foreign) - 1} more): choose an empty or new folder"
        )
